import type { GraphQLClient } from './graphql-client.ts'

export type ReplyEvent = { __typename: string; cursor: string; text?: string; message?: { content: string } }

/** Begins a conversation with `content` through the public API. */
export async function sendMessage(client: GraphQLClient, content: string): Promise<{ conversationId: string; runId: string }> {
  const { createConversation } = await client.data<{ createConversation: { conversation: { id: string } } }>(
    'mutation { createConversation(input: { title: "e2e" }) { ... on CreateConversationPayload { conversation { id } } } }',
  )
  const conversationId = createConversation.conversation.id
  const { sendMessage } = await client.data<{ sendMessage: { run: { id: string } } }>(
    `mutation ($input: SendMessageInput!) {
      sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } }
    }`,
    { input: { conversationId, content } },
  )
  return { conversationId, runId: sendMessage.run.id }
}

/** Every event of the run, after a cursor if there is one, until it ends. */
export async function* followRun(client: GraphQLClient, runId: string, after?: string): AsyncGenerator<ReplyEvent> {
  const agentReply = `subscription ($runId: ID!, $after: String) { agentReply(runId: $runId, after: $after) {
    __typename
    ... on TextDelta { cursor text } ... on Snapshot { cursor text } ... on StreamReset { cursor text }
    ... on RunCompleted { cursor message { content } } ... on RunFailed { cursor failure { code message } }
    ... on RunCancelled { cursor text } ... on RunInterrupted { cursor text }
  } }`
  for await (const { agentReply: event } of client.events<{ agentReply: ReplyEvent }>(agentReply, { runId, after })) yield event
}

/** The text that a client shows after these events. */
export function shownText(events: readonly ReplyEvent[]): string {
  return events.reduce((shown, { __typename, text = '' }) => {
    if (__typename === 'TextDelta') return shown + text
    return __typename === 'Snapshot' || __typename === 'StreamReset' ? text : shown
  }, '')
}
