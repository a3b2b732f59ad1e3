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
