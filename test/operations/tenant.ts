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

export const tenantsQuery = graphql(`
  query Tenants($first: Int, $after: String, $filter: TenantFilter) {
    tenants(first: $first, after: $after, filter: $filter) {
      edges {
        node {
          id
          name
          plan
          status
        }
      }
      pageInfo {
        hasNextPage
        endCursor
      }
    }
  }
`)

export const createTenantMutation = graphql(`
  mutation CreateTenant($input: CreateTenantInput!) {
    createTenant(input: $input) {
      __typename
      ... on CreateTenantPayload {
        adminKey
        tenant {
          id
          name
          plan
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

export const suspendTenantMutation = graphql(`
  mutation SuspendTenant($input: SuspendTenantInput!) {
    suspendTenant(input: $input) {
      __typename
      ... on SuspendTenantPayload {
        tenant {
          id
          status
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)

export const resumeTenantMutation = graphql(`
  mutation ResumeTenant($input: ResumeTenantInput!) {
    resumeTenant(input: $input) {
      __typename
      ... on ResumeTenantPayload {
        tenant {
          id
          status
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
