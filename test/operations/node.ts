import { graphql } from '../generated/gql.ts'

export const nodeQuery = graphql(`
  query Node($id: ID!) {
    node(id: $id) {
      __typename
      id
    }
  }
`)
