import { graphql } from '../generated/gql.ts'

export const agentReplySubscription = graphql(`
  subscription AgentReply($runId: ID!, $after: String) {
    agentReply(runId: $runId, after: $after) {
      __typename
      ... on TextDelta {
        cursor
        text
      }
      ... on ToolCallStarted {
        cursor
        toolCallId
        name
        arguments
      }
      ... on ToolCallFinished {
        cursor
        toolCallId
        outcome
      }
      ... on ApprovalRequested {
        cursor
        approvalId
        toolCallId
        name
        arguments
        argumentsHash
        mayHaveHappened
        expiresAt
      }
      ... on RunPaused {
        cursor
        status
        resumeAt
      }
      ... on RunResumed {
        cursor
      }
      ... on StreamReset {
        cursor
        text
      }
      ... on Snapshot {
        cursor
        text
        run {
          id
        }
      }
      ... on RunCompleted {
        cursor
        finishReason
        message {
          id
          content
        }
        usage {
          totalTokens
        }
      }
      ... on RunFailed {
        cursor
        failure {
          code
          message
        }
      }
      ... on RunCancelled {
        cursor
        text
      }
      ... on RunInterrupted {
        cursor
        text
      }
      ... on Lagged {
        cursor
        resumeAfter
      }
    }
  }
`)
