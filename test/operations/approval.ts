import { graphql } from '../generated/gql.ts'

export const approvalsQuery = graphql(`
  query Approvals($first: Int, $after: String) {
    approvals(first: $first, after: $after) {
      edges {
        cursor
        node {
          id
          status
          toolCallId
          name
          arguments
          argumentsHash
          mayHaveHappened
          createdAt
          expiresAt
          decidedAt
          decidedBy
          reason
          run {
            id
            status
          }
        }
      }
    }
  }
`)

export const approveToolCallMutation = graphql(`
  mutation ApproveToolCall($input: ApproveToolCallInput!) {
    approveToolCall(input: $input) {
      __typename
      ... on ApproveToolCallPayload {
        approval {
          id
          status
          decidedBy
          reason
        }
      }
      ... on Problem {
        message
      }
    }
  }
`)

export const rejectToolCallMutation = graphql(`
  mutation RejectToolCall($input: RejectToolCallInput!) {
    rejectToolCall(input: $input) {
      __typename
      ... on RejectToolCallPayload {
        approval {
          id
          status
          decidedBy
          reason
        }
      }
      ... on Problem {
        message
      }
    }
  }
`)
