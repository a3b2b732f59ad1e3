import { graphql } from '../generated/gql.ts'

export const agentsQuery = graphql(`
  query Agents {
    agents {
      id
      slug
      name
      isDefault
      createdAt
      archivedAt
      config {
        version
        status
        systemPrompt
      }
    }
  }
`)

export const agentQuery = graphql(`
  query Agent($id: ID!) {
    agent(id: $id) {
      id
      name
    }
  }
`)
