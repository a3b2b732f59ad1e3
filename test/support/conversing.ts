import { createConversationMutation } from '../operations/conversation.ts'
import { sendMessageMutation } from '../operations/message.ts'
import type { Api } from './api.ts'

/** The payload of a mutation's answer. Throws when it was a problem. */
export function payload<R extends { __typename: string }, N extends R['__typename']>(
  result: R,
  name: N,
): Extract<R, { __typename: N }> {
  if (result.__typename !== name) throw new Error(JSON.stringify(result))
  return result as Extract<R, { __typename: N }>
}

/** A new conversation of whoever uses `api`. */
export async function begin(api: Api, title = 'A conversation'): Promise<string> {
  const { createConversation } = await api.data(createConversationMutation, { input: { title } })
  return payload(createConversation, 'CreateConversationPayload').conversation.id
}

/** Says something in a new conversation, or in the one that is named. */
export async function say(
  api: Api,
  content: string,
  conversationId?: string,
): Promise<{ conversationId: string; runId: string }> {
  const id = conversationId ?? (await begin(api))
  const { sendMessage } = await api.data(sendMessageMutation, { input: { conversationId: id, content } })
  return { conversationId: id, runId: payload(sendMessage, 'SendMessagePayload').run.id }
}
