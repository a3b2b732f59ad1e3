import type { AgentConfig as AgentConfigRow } from '../data/generated/client.ts'
import type { AgentConfigStatus, HistoryPolicy } from '../data/generated/enums.ts'
import { brandingOf } from '../domain/agent-branding.ts'
import { activeAgentConfig, findAgentConfig, listAgentConfigs, updateAgentConfig } from '../domain/agent-config.ts'
import { AgentBranding, AgentBrandingInput } from './agent-branding.ts'
import { BudgetBehaviour } from './budget-behaviour.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { decodeId, encodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'
import { textBudget } from './text-budget.ts'

const Status = builder.enumType('AgentConfigStatus', {
  description: 'Where a version of a configuration stands.',
  values: {
    DRAFT: { description: 'Being written. No run uses it, and it can still change.' },
    PUBLISHED: { description: 'In use, or was. It never changes again.' },
  } satisfies Record<AgentConfigStatus, { description: string }>,
})

const History = builder.enumType('HistoryPolicy', {
  description: 'How much of what was said before in a conversation the model is told.',
  values: {
    ALL: { description: 'As much as fits, of the last 100 exchanges.' },
    LAST_EXCHANGES: { description: 'As much as fits, of the last `historyExchanges`.' },
    NONE: { description: 'Nothing: each message is answered by itself.' },
  } satisfies Record<HistoryPolicy, { description: string }>,
})

export const AgentConfig = builder.objectRef<AgentConfigRow>('AgentConfig')

AgentConfig.implement({
  description: "One version of an agent's configuration. A published version never changes. For members and admins.",
  interfaces: [Node],
  authScopes: { member: true },
  fields: (t) => ({
    id: t.id(idField('AgentConfig')),
    version: t.exposeInt('version', { description: 'Counts from 1 for each agent.' }),
    status: t.expose('status', { type: Status, description: 'Draft or published.' }),
    systemPrompt: t.string({
      description: 'What the model is told before every conversation.',
      resolve: ({ systemPrompt }, _args, context) => textBudget(context).spend(systemPrompt),
    }),
    model: t.exposeString('model', { description: 'The model that answers.' }),
    fallbackModels: t.exposeStringList('fallbackModels', {
      description: 'Models to turn to, in this order, when one fails before its first token.',
    }),
    temperature: t.exposeFloat('temperature', { description: 'How freely the model chooses its words: 0 to 2.' }),
    maxOutputTokens: t.exposeInt('maxOutputTokens', { description: 'Bound on the tokens of one model call: 1 to 128,000.' }),
    maxTurns: t.exposeInt('maxTurns', { description: 'Bound on the model calls of one run: 1 to 50.' }),
    enabledTools: t.exposeStringList('enabledTools', { description: 'Names of the tools the agent may use.' }),
    branding: t.field({
      type: AgentBranding,
      description: "How the tenant's frontends present the agent.",
      resolve: brandingOf,
    }),
    historyPolicy: t.expose('historyPolicy', {
      type: History,
      description: 'How much of what was said before the model is told.',
    }),
    historyExchanges: t.exposeInt('historyExchanges', {
      description: 'Under LAST_EXCHANGES, how many questions with their answers: 1 to 100. Of no effect otherwise.',
    }),
    handoffAgentIds: t.idList({
      description: 'Agents that it may hand a conversation over to. Those that are archived by now it may not.',
      resolve: ({ handoffAgentIds }) => handoffAgentIds.map((id) => encodeId('Agent', id)),
    }),
    budgetBehaviour: t.expose('budgetBehaviour', {
      type: BudgetBehaviour,
      nullable: true,
      description: "What becomes of an answer when the month's tokens end before it does. Null: what the tenant's settings say.",
    }),
    publishedAt: t.expose('publishedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was published. Null for a draft.',
    }),
  }),
})

resolveNodesOf('AgentConfig', { authScopes: { member: true }, load: (context, uuid) => findAgentConfig(scopeOf(context), uuid) })

const AgentConfigConnection = connectionOf(AgentConfig, 'versions of a configuration')

const whose = "Whose. Default: the tenant's default agent. NOT_FOUND when there is no such agent."

builder.queryFields((t) => ({
  agentConfig: t.field({
    type: AgentConfig,
    description:
      'The active configuration: what new runs use, but for those that fall to a canary. Never a draft. For members and admins.',
    authScopes: { member: true },
    args: { agentId: t.arg.id({ description: whose }) },
    resolve: (_root, { agentId }, context) => activeAgentConfig(scopeOf(context), decodeAgentId(agentId)),
  }),
  agentConfigVersions: t.field({
    type: AgentConfigConnection,
    description: "All versions of an agent's configuration, the draft included, newest first. For members and admins.",
    authScopes: { member: true },
    args: { agentId: t.arg.id({ description: whose }), ...pageArgs(t.arg) },
    resolve: (_root, { agentId, ...page }, context) =>
      textBudget(context).load(() => listAgentConfigs(scopeOf(context), page, decodeAgentId(agentId))),
  }),
}))

/** The UUID of the agent that is named; null for the default one. */
export function decodeAgentId(id: string | null | undefined): string | null {
  return id == null ? null : decodeId('Agent', id)
}

/** A change as the domain knows it: its agents by their UUIDs. */
export function decodeHandoffs<Change extends { handoffAgentIds?: string[] | null }>(change: Change): Change {
  return { ...change, handoffAgentIds: change.handoffAgentIds?.map((id) => decodeId('Agent', id)) }
}

/** What a tenant decides about an agent, as fields of an input. */
export const configFields = (t: InputFields) => ({
  systemPrompt: t.string({ description: 'What the model is told before every conversation. At most 100,000 bytes.' }),
  model: t.string({ description: 'The model that answers.' }),
  fallbackModels: t.stringList({ description: 'Models to turn to, in this order.' }),
  temperature: t.float({ description: 'How freely the model chooses its words: 0 to 2.' }),
  maxOutputTokens: t.int({ description: 'Bound on the tokens of one model call: 1 to 128,000.' }),
  maxTurns: t.int({ description: 'Bound on the model calls of one run: 1 to 50.' }),
  enabledTools: t.stringList({ description: 'Names of the tools the agent may use.' }),
  branding: t.field({ type: AgentBrandingInput, description: "How the tenant's frontends present the agent: all of it." }),
  historyPolicy: t.field({ type: History, description: 'How much of what was said before the model is told.' }),
  historyExchanges: t.int({ description: 'Under LAST_EXCHANGES, how many questions with their answers: 1 to 100.' }),
  handoffAgentIds: t.idList({
    description: 'Agents that it may hand a conversation over to: other ones of yours that are in use, at most 20.',
  }),
  budgetBehaviour: t.field({
    type: BudgetBehaviour,
    description: "What becomes of an answer when the month's tokens end before it does. Null: what the tenant's settings say.",
  }),
})

type InputFields = PothosSchemaTypes.InputFieldBuilder<(typeof builder)['$inferSchemaTypes'], 'InputObject'>

mutation('updateAgentConfig', {
  description:
    'Changes what it names and keeps the rest. A published version is immutable, so publishing makes a new version; runs under way keep the one they started with. It ends a canary. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    agentId: t.id({ description: "Whose configuration. Default: the tenant's default agent." }),
    ...configFields(t),
    publish: t.boolean({
      defaultValue: true,
      description: 'True puts it to use at once. False leaves a draft, of which there is at most one per agent.',
    }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input changes nothing more.',
    }),
  }),
  resolve: async (scope, { agentId, publish, ...changes }) => ({
    agentConfig: await updateAgentConfig(scope, {
      ...decodeHandoffs(changes),
      agentId: decodeAgentId(agentId),
      publish: publish ?? true,
    }),
  }),
  payload: (t) => ({
    agentConfig: t.expose('agentConfig', { type: AgentConfig, description: 'The version that was published, or the draft.' }),
  }),
})
