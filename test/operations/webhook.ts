import { graphql } from '../generated/gql.ts'

export const webhooksQuery = graphql(`
  query Webhooks {
    webhooks {
      id
      url
      description
      events
      createdAt
    }
  }
`)

export const createWebhookMutation = graphql(`
  mutation CreateWebhook($input: CreateWebhookInput!) {
    createWebhook(input: $input) {
      __typename
      ... on CreateWebhookPayload {
        webhook {
          id
          url
          description
          events
          createdAt
        }
        secret
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

export const deleteWebhookMutation = graphql(`
  mutation DeleteWebhook($input: DeleteWebhookInput!) {
    deleteWebhook(input: $input) {
      __typename
      ... on DeleteWebhookPayload {
        webhook {
          id
          url
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
