import { graphql } from '../generated/gql.ts'

export const agentConfigQuery = graphql(`
  query AgentConfig($agentId: ID) {
    agentConfig(agentId: $agentId) {
      id
      version
      status
      systemPrompt
      model
      fallbackModels
      temperature
      maxOutputTokens
      maxTurns
      enabledTools
      branding {
        name
        primaryColor
        backgroundColor
        logoUrl
        greeting
      }
      historyPolicy
      historyExchanges
      budgetBehaviour
      publishedAt
    }
  }
`)

export const updateAgentConfigMutation = graphql(`
  mutation UpdateAgentConfig($input: UpdateAgentConfigInput!) {
    updateAgentConfig(input: $input) {
      __typename
      ... on UpdateAgentConfigPayload {
        agentConfig {
          id
          version
          status
          systemPrompt
          temperature
          publishedAt
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

export const agentConfigVersionsQuery = graphql(`
  query AgentConfigVersions($agentId: ID, $first: Int, $after: String) {
    agentConfigVersions(agentId: $agentId, first: $first, after: $after) {
      edges {
        node {
          id
          version
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

export const agentConfigDiffQuery = graphql(`
  query AgentConfigDiff($agentId: ID, $from: Int!, $to: Int!) {
    agentConfigDiff(agentId: $agentId, from: $from, to: $to) {
      field
      from
      to
    }
  }
`)

export const publishAgentConfigMutation = graphql(`
  mutation PublishAgentConfig($input: PublishAgentConfigInput!) {
    publishAgentConfig(input: $input) {
      __typename
      ... on PublishAgentConfigPayload {
        agentConfig {
          id
          version
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

export const rollbackAgentConfigMutation = graphql(`
  mutation RollbackAgentConfig($input: RollbackAgentConfigInput!) {
    rollbackAgentConfig(input: $input) {
      __typename
      ... on RollbackAgentConfigPayload {
        agentConfig {
          id
          version
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

export const agentVersionStatsQuery = graphql(`
  query AgentVersionStats($agentId: ID, $range: DateRange!) {
    agentVersionStats(agentId: $agentId, range: $range) {
      version
      runs
      endedRuns
      failedRuns
      errorRate
      calls
      inputTokens
      outputTokens
      cost {
        micros
      }
    }
  }
`)
