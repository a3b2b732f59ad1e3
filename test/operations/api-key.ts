import { graphql } from '../generated/gql.ts'

export const apiKeysQuery = graphql(`
  query ApiKeys {
    apiKeys {
      id
      name
      role
      userId
      createdAt
      expiresAt
      revokedAt
    }
  }
`)

export const createApiKeyMutation = graphql(`
  mutation CreateApiKey($input: CreateApiKeyInput!) {
    createApiKey(input: $input) {
      __typename
      ... on CreateApiKeyPayload {
        secret
        apiKey {
          id
          name
          role
          userId
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

export const revokeApiKeyMutation = graphql(`
  mutation RevokeApiKey($input: RevokeApiKeyInput!) {
    revokeApiKey(input: $input) {
      __typename
      ... on RevokeApiKeyPayload {
        apiKey {
          id
          revokedAt
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
