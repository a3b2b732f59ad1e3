import { graphql } from '../generated/gql.ts'

export const tenantQuery = graphql(`
  query Tenant($id: ID) {
    tenant(id: $id) {
      id
      name
      plan
      status
    }
  }
`)
