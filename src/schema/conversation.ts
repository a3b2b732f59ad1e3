import type { Conversation as ConversationRow } from '../data/generated/client.ts'
import {
  conversationsByIds,
  createConversation,
  deleteConversation,
  findConversation,
  listConversations,
  renameConversation,
} from '../domain/conversation.ts'
import { listMessages } from '../domain/message.ts'
import { defaultCurrency } from '../domain/pricing.ts'
import { costByConversation, listRuns } from '../domain/run.ts'
import { Agent, agents } from './agent.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { decodeId, encodeId } from './global-id.ts'
import { byId, loader } from './loader.ts'
import { MessageConnection } from './message.ts'
import { Money } from './money.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'
import { RunConnection } from './run.ts'
import { textBudget } from './text-budget.ts'

/** Conversations by id. */
export const conversations = loader(async (context, ids) => byId(await conversationsByIds(scopeOf(context), ids)))

/** What conversations cost, in nano-units. */
const costs = loader((context, ids) => costByConversation(scopeOf(context), ids))

export const Conversation = builder.objectRef<ConversationRow>('Conversation')

Conversation.implement({
  description: 'What a person and an agent say to each other.',
  interfaces: [Node],
  authScopes: { endUser: true },
  fields: (t) => ({
    id: t.id(idField('Conversation')),
    title: t.exposeString('title', { nullable: true, description: 'What it is about. Null when nobody named it.' }),
    userId: t.exposeString('userId', {
      nullable: true,
      description: "The end user it belongs to. Null when it belongs to the tenant's staff.",
    }),
    agent: t.field({
      type: Agent,
      nullable: true,
      description: 'Who answers. Null when that agent is gone.',
      resolve: (conversation, _args, context) => agents(context).load(conversation.agentId),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it began.' }),
    updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When something last happened in it.' }),
    cost: t.field({
      type: Money,
      description: 'What all its model calls cost so far, from the ledger.',
      resolve: async ({ id }, _args, context) => ({
        nanos: (await costs(context).load(id)) ?? 0n,
        currency: defaultCurrency,
      }),
    }),
    messages: t.field({
      type: MessageConnection,
      description: 'What was said, oldest first.',
      args: pageArgs(t.arg),
      resolve: (conversation, args, context) =>
        textBudget(context).load(() => listMessages(scopeOf(context), conversation.id, args)),
    }),
    runs: t.field({
      type: RunConnection,
      description: 'The answers that were made or are being made, newest first.',
      args: pageArgs(t.arg),
      resolve: (conversation, args, context) => listRuns(scopeOf(context), args, { conversationId: conversation.id }),
    }),
  }),
})

const ConversationConnection = connectionOf(Conversation, 'conversations')

resolveNodesOf('Conversation', { authScopes: { endUser: true }, load: (context, uuid) => conversations(context).load(uuid) })

const ConversationFilter = builder.inputType('ConversationFilter', {
  description: 'Which conversations. Everything that is named must hold.',
  fields: (t) => ({
    userId: t.string({ description: 'Only those of this end user. End users see their own in any case.' }),
    agentId: t.id({ description: 'Only those that this agent answers.' }),
  }),
})

builder.queryFields((t) => ({
  conversation: t.field({
    type: Conversation,
    nullable: true,
    description: 'One conversation. Null when there is no such conversation here. End users see their own.',
    authScopes: { endUser: true },
    args: { id: t.arg.id({ required: true, description: 'Its id.' }) },
    resolve: (_root, { id }, context) => findConversation(scopeOf(context), decodeId('Conversation', id)),
  }),
  conversations: t.field({
    type: ConversationConnection,
    description: 'Conversations, newest first. End users see their own.',
    authScopes: { endUser: true },
    args: { ...pageArgs(t.arg), filter: t.arg({ type: ConversationFilter, description: 'Which ones. Default: all.' }) },
    resolve: (_root, { filter, ...page }, context) =>
      listConversations(scopeOf(context), page, {
        userId: filter?.userId,
        agentId: filter?.agentId == null ? undefined : decodeId('Agent', filter.agentId),
      }),
  }),
}))

const idempotencyKey = 'Makes repeating the call safe for 24 hours: the same key with the same input makes no second one.'

mutation('createConversation', {
  description: 'Begins a conversation. End users begin their own.',
  authScopes: { endUser: true },
  input: (t) => ({
    title: t.string({ description: 'What it is about.' }),
    userId: t.string({
      description: 'The end user it belongs to. Naming another one is Forbidden for end users; naming none means yourself.',
    }),
    agentId: t.id({ description: "Who answers. Default: the tenant's default agent." }),
    idempotencyKey: t.string({ description: idempotencyKey }),
  }),
  resolve: async (scope, { agentId, ...input }) => ({
    conversation: await createConversation(scope, {
      ...input,
      agentId: agentId == null ? undefined : decodeId('Agent', agentId),
    }),
  }),
  payload: (t) => ({ conversation: t.expose('conversation', { type: Conversation, description: 'The new conversation.' }) }),
})

mutation('renameConversation', {
  description: 'Gives a conversation another title. End users rename their own.',
  authScopes: { endUser: true },
  input: (t) => ({
    conversationId: t.id({ required: true, description: 'Which conversation.' }),
    title: t.string({ required: true, description: 'Its new title.' }),
  }),
  resolve: async (scope, { conversationId, title }) => ({
    conversation: await renameConversation(scope, { conversationId: decodeId('Conversation', conversationId), title }),
  }),
  payload: (t) => ({ conversation: t.expose('conversation', { type: Conversation, description: 'The renamed conversation.' }) }),
})

mutation('deleteConversation', {
  description:
    'Deletes a conversation with its messages and runs, for good; unfinished runs are cancelled first. What it cost stays in the ledger. End users delete their own.',
  authScopes: { endUser: true },
  input: (t) => ({ conversationId: t.id({ required: true, description: 'Which conversation.' }) }),
  resolve: (scope, { conversationId }) => deleteConversation(scope, { conversationId: decodeId('Conversation', conversationId) }),
  payload: (t) => ({
    deletedConversationId: t.id({
      description: 'The id of what is gone, for clients to drop from their caches.',
      resolve: ({ deletedConversationId }) => encodeId('Conversation', deletedConversationId),
    }),
  }),
})
