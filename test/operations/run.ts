import { graphql } from '../generated/gql.ts'

export const runQuery = graphql(`
  query Run($id: ID!) {
    run(id: $id) {
      id
      status
      configVersion
      model
      createdAt
      startedAt
      finishedAt
      conversation {
        id
      }
      userMessage {
        content
      }
      reply {
        content
      }
      usage {
        inputTokens
        cachedInputTokens
        outputTokens
        reasoningTokens
        totalTokens
        estimated
      }
      cost {
        micros
        currency
        formatted
      }
      failure {
        code
        message
      }
    }
  }
`)

export const runsQuery = graphql(`
  query Runs($first: Int, $after: String, $filter: RunFilter) {
    runs(first: $first, after: $after, filter: $filter) {
      edges {
        node {
          id
          status
        }
      }
    }
  }
`)

export const cancelRunMutation = graphql(`
  mutation CancelRun($input: CancelRunInput!) {
    cancelRun(input: $input) {
      __typename
      ... on CancelRunPayload {
        run {
          id
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
