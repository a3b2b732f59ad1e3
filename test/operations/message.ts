import { graphql } from '../generated/gql.ts'

export const sendMessageMutation = graphql(`
  mutation SendMessage($input: SendMessageInput!) {
    sendMessage(input: $input) {
      __typename
      ... on SendMessagePayload {
        userMessage {
          id
          role
          content
        }
        run {
          id
          status
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
