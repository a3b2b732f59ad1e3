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
      branding
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
