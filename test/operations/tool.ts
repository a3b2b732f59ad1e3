import { graphql } from '../generated/gql.ts'

export const toolsQuery = graphql(`
  query Tools {
    tools {
      id
      kind
      name
      description
      functions {
        name
        description
        parameters
      }
      http {
        method
        url
        parameters
        headers {
          name
          value
        }
        allowedHosts
        responseMapping {
          name
          path
        }
        timeoutMs
        maxBytes
        isIdempotent
        approval
        approvalWhen
      }
      mcp {
        url
        headers {
          name
          value
        }
        allowedTools
        skippedTools
        listedAt
        timeoutMs
        approval
        approvalWhen
      }
      createdAt
      updatedAt
    }
  }
`)

export const createToolMutation = graphql(`
  mutation CreateTool($input: CreateToolInput!) {
    createTool(input: $input) {
      __typename
      ... on CreateToolPayload {
        tool {
          id
          kind
          name
          functions {
            name
            description
          }
          mcp {
            skippedTools
          }
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

export const updateToolMutation = graphql(`
  mutation UpdateTool($input: UpdateToolInput!) {
    updateTool(input: $input) {
      __typename
      ... on UpdateToolPayload {
        tool {
          id
          description
          functions {
            name
            description
          }
          http {
            url
          }
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

export const deleteToolMutation = graphql(`
  mutation DeleteTool($input: DeleteToolInput!) {
    deleteTool(input: $input) {
      __typename
      ... on DeleteToolPayload {
        tool {
          id
          name
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
