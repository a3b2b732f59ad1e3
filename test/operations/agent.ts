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
      canary {
        percent
        config {
          version
        }
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

export const createAgentMutation = graphql(`
  mutation CreateAgent($input: CreateAgentInput!) {
    createAgent(input: $input) {
      __typename
      ... on CreateAgentPayload {
        agent {
          id
          slug
          name
          isDefault
          archivedAt
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

export const renameAgentMutation = graphql(`
  mutation RenameAgent($input: RenameAgentInput!) {
    renameAgent(input: $input) {
      __typename
      ... on RenameAgentPayload {
        agent {
          id
          slug
          name
          isDefault
          archivedAt
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

export const archiveAgentMutation = graphql(`
  mutation ArchiveAgent($input: ArchiveAgentInput!) {
    archiveAgent(input: $input) {
      __typename
      ... on ArchiveAgentPayload {
        agent {
          id
          slug
          name
          isDefault
          archivedAt
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

export const setDefaultAgentMutation = graphql(`
  mutation SetDefaultAgent($input: SetDefaultAgentInput!) {
    setDefaultAgent(input: $input) {
      __typename
      ... on SetDefaultAgentPayload {
        agent {
          id
          slug
          name
          isDefault
          archivedAt
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
