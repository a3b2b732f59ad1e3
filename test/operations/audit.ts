import { graphql } from '../generated/gql.ts'

export const auditEventsQuery = graphql(`
  query AuditEvents($first: Int, $after: String, $filter: AuditFilter) {
    auditEvents(first: $first, after: $after, filter: $filter) {
      edges {
        node {
          action
          actorKind
          actorName
          actorId
          subject
          subjectId
          details
          createdAt
        }
      }
      pageInfo {
        hasNextPage
        endCursor
      }
    }
  }
`)
