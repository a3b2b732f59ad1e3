import { graphql } from '../generated/gql.ts'

export const secretsQuery = graphql(`
  query Secrets {
    secrets {
      id
      name
      createdAt
      updatedAt
    }
  }
`)

export const setSecretMutation = graphql(`
  mutation SetSecret($input: SetSecretInput!) {
    setSecret(input: $input) {
      __typename
      ... on SetSecretPayload {
        secret {
          id
          name
          createdAt
          updatedAt
        }
      }
      ... on Problem {
        code
        message
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const deleteSecretMutation = graphql(`
  mutation DeleteSecret($input: DeleteSecretInput!) {
    deleteSecret(input: $input) {
      __typename
      ... on DeleteSecretPayload {
        secret {
          id
          name
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
