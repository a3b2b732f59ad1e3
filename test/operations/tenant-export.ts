import { graphql } from '../generated/gql.ts'

export const exportTenantMutation = graphql(`
  mutation ExportTenant($input: ExportTenantInput!) {
    exportTenant(input: $input) {
      __typename
      ... on ExportTenantPayload {
        tenantExport {
          id
          status
          progress
          downloadPath
          expiresAt
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)

export const tenantExportQuery = graphql(`
  query TenantExport($id: ID!) {
    node(id: $id) {
      ... on TenantExport {
        id
        status
        progress
        downloadPath
        expiresAt
      }
    }
  }
`)
