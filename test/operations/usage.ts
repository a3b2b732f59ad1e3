import { graphql } from '../generated/gql.ts'

export const usageQuery = graphql(`
  query Usage($range: DateRange!, $groupBy: [UsageDimension!], $tenantId: ID) {
    usage(range: $range, groupBy: $groupBy, tenantId: $tenantId) {
      total {
        calls
        inputTokens
        outputTokens
        cost {
          micros
          formatted
        }
        estimated
      }
      rows {
        hour
        day
        model
        conversationId
        userId
        agentId
        configVersion
        calls
        cost {
          micros
        }
      }
    }
  }
`)

export const correctUsageMutation = graphql(`
  mutation CorrectUsage($input: CorrectUsageInput!) {
    correctUsage(input: $input) {
      __typename
      ... on CorrectUsagePayload {
        correction {
          usageRecordId
          number
          inputTokens
          cachedInputTokens
          outputTokens
          reasoningTokens
          cost {
            formatted
          }
          createdAt
        }
        total {
          calls
          inputTokens
          cachedInputTokens
          outputTokens
          reasoningTokens
          cost {
            formatted
          }
        }
      }
      ... on Problem {
        message
        code
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)
