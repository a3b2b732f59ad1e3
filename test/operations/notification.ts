import { graphql } from '../generated/gql.ts'

export const notificationsQuery = graphql(`
  query Notifications($first: Int, $after: String) {
    notifications(first: $first, after: $after) {
      edges {
        cursor
        node {
          id
          kind
          title
          body
          details
          createdAt
        }
      }
      pageInfo {
        hasNextPage
      }
    }
  }
`)

export const notificationReceivedSubscription = graphql(`
  subscription NotificationReceived($after: String) {
    notificationReceived(after: $after) {
      id
      title
    }
  }
`)
