import type { Message as MessageRow } from '../data/generated/client.ts'
import type { MessageRole } from '../data/generated/enums.ts'
import { type MultitaskStrategy, messagesByIds, sendMessage } from '../domain/message.ts'
import { builder } from './builder.ts'
import { connectionOf } from './connection.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { byId, loader } from './loader.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'
import { Run, runs } from './run.ts'
import { textBudget } from './text-budget.ts'

/** Messages by id. */
export const messages = loader(async (context, ids) => byId(await messagesByIds(scopeOf(context), ids)))

const RoleInConversation = builder.enumType('MessageRole', {
  description: 'Who speaks.',
  values: {
    SYSTEM: { description: 'The platform.' },
    USER: { description: 'A person.' },
    ASSISTANT: { description: 'The agent.' },
    TOOL: { description: 'A tool, to the agent.' },
  } satisfies Record<MessageRole, { description: string }>,
})

export const Message = builder.objectRef<MessageRow>('Message')

Message.implement({
  description: 'Something that was said. It never changes.',
  interfaces: [Node],
  authScopes: { endUser: true },
  fields: (t) => ({
    id: t.id(idField('Message')),
    role: t.expose('role', { type: RoleInConversation, description: 'Who said it.' }),
    content: t.string({
      description: 'What was said. One operation may ask for 16 million characters of it.',
      resolve: ({ content }, _args, context) => textBudget(context).spend(content),
    }),
    tokensUsed: t.exposeInt('tokensUsed', {
      description: "Tokens of the content: estimated for a person's message, reported by the model for a reply.",
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was said.' }),
    run: t.field({
      type: Run,
      nullable: true,
      description: 'The run that it started, or that it is the reply of. Null when there was none.',
      resolve: (message, _args, context) => runs(context).load(message.runId),
    }),
  }),
})

export const MessageConnection = connectionOf(Message, 'messages')

resolveNodesOf('Message', { authScopes: { endUser: true }, load: (context, uuid) => messages(context).load(uuid) })

const Strategy = builder.enumType('MultitaskStrategy', {
  description: 'What happens to a message that is sent while an earlier one is still being answered ("double texting").',
  values: {
    ENQUEUE: { description: 'It is answered when the runs before it have ended.' },
    REJECT: { description: 'CONFLICT, and nothing is stored.' },
    INTERRUPT: {
      description:
        'The runs before it end as INTERRUPTED, with what was written so far as their reply; those that had not begun end without one. Then it is answered.',
    },
  } satisfies Record<MultitaskStrategy, { description: string }>,
})

mutation('sendMessage', {
  description:
    'Says something in a conversation and starts a run that answers it, unless a limit of the tenant refuses it. The run goes on whether or not anybody listens; follow it with agentReply. End users write in their own conversations.',
  authScopes: { endUser: true },
  checksAccess: true,
  input: (t) => ({
    conversationId: t.id({ required: true, description: 'Where.' }),
    content: t.string({ required: true, description: 'What to say. At most 100,000 bytes of UTF-8.' }),
    whenBusy: t.field({
      type: Strategy,
      description:
        'What to do while the conversation is busy: when one of its runs has not ended, those included that wait for a person or for budget. Default: ENQUEUE.',
    }),
    idempotencyKey: t.string({
      description:
        'Makes repeating the call safe for 24 hours: the same key with the same input answers the same message and run.',
    }),
  }),
  resolve: (scope, { conversationId, ...input }) =>
    sendMessage(scope, { ...input, conversationId: decodeId('Conversation', conversationId) }),
  payload: (t) => ({
    userMessage: t.expose('userMessage', { type: Message, description: 'What was said.' }),
    run: t.expose('run', { type: Run, description: 'The run that answers it.' }),
  }),
  quota: ({ quota }) => quota,
})
