import { graphql } from '../generated/gql.ts'

export const eraseTenantMutation = graphql(`
  mutation EraseTenant($input: EraseTenantInput!) {
    eraseTenant(input: $input) {
      __typename
      ... on EraseTenantPayload {
        certificate {
          tenantId
          requestedBy
          requestedAt
          finishedAt
          found {
            kind
            count
          }
          erased {
            kind
            count
          }
          retained {
            kind
            count
          }
          backupsExpireAt
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

export const erasureQuery = graphql(`
  query Erasure($id: ID!) {
    tenant(id: $id) {
      name
      status
      erasure {
        finishedAt
      }
    }
  }
`)
