import type { AgentConfig as AgentConfigRow } from '../data/generated/client.ts'
import type { AgentConfigStatus } from '../data/generated/enums.ts'
import { activeAgentConfig, findAgentConfig, updateAgentConfig } from '../domain/agent-config.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const Status = builder.enumType('AgentConfigStatus', {
  description: 'Where a version of a configuration stands.',
  values: {
    DRAFT: { description: 'Being written. No run uses it, and it can still change.' },
    PUBLISHED: { description: 'In use, or was. It never changes again.' },
  } satisfies Record<AgentConfigStatus, { description: string }>,
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
    systemPrompt: t.exposeString('systemPrompt', { description: 'What the model is told before every conversation.' }),
    model: t.exposeString('model', { description: 'The model that answers.' }),
    fallbackModels: t.exposeStringList('fallbackModels', {
      description: 'Models to turn to, in this order, when one fails before its first token.',
    }),
    temperature: t.exposeFloat('temperature', { description: 'How freely the model chooses its words: 0 to 2.' }),
    maxOutputTokens: t.exposeInt('maxOutputTokens', { description: 'Bound on the tokens of one model call: 1 to 128,000.' }),
    maxTurns: t.exposeInt('maxTurns', { description: 'Bound on the model calls of one run: 1 to 50.' }),
    enabledTools: t.exposeStringList('enabledTools', { description: 'Names of the tools the agent may use.' }),
    branding: t.field({
      type: 'JSONObject',
      description: "How the tenant's frontends present the agent: colours, logo, greeting. Opaque to the platform.",
      resolve: (config) => config.branding as Record<string, unknown>,
    }),
    publishedAt: t.expose('publishedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was published. Null for a draft.',
    }),
  }),
})

resolveNodesOf('AgentConfig', { authScopes: { member: true }, load: (context, uuid) => findAgentConfig(scopeOf(context), uuid) })

builder.queryField('agentConfig', (t) =>
  t.field({
    type: AgentConfig,
    description: 'The active configuration: always what new runs use, never a draft. For members and admins.',
    authScopes: { member: true },
    args: {
      agentId: t.arg.id({ description: "Whose. Default: the tenant's default agent. NOT_FOUND when there is no such agent." }),
    },
    resolve: (_root, { agentId }, context) =>
      activeAgentConfig(scopeOf(context), agentId == null ? undefined : decodeId('Agent', agentId)),
  }),
)

mutation('updateAgentConfig', {
  description:
    'Changes what it names and keeps the rest. A published version is immutable, so publishing makes a new version; runs under way keep the one they started with. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    agentId: t.id({ description: "Whose configuration. Default: the tenant's default agent." }),
    systemPrompt: t.string({ description: 'What the model is told before every conversation. At most 100,000 bytes.' }),
    model: t.string({ description: 'The model that answers.' }),
    fallbackModels: t.stringList({
      description: 'Models to turn to, in this order, when one fails before its first token.',
    }),
    temperature: t.float({ description: 'How freely the model chooses its words: 0 to 2.' }),
    maxOutputTokens: t.int({ description: 'Bound on the tokens of one model call: 1 to 128,000.' }),
    maxTurns: t.int({ description: 'Bound on the model calls of one run: 1 to 50.' }),
    enabledTools: t.stringList({ description: 'Names of the tools the agent may use.' }),
    branding: t.field({ type: 'JSONObject', description: "How the tenant's frontends present the agent." }),
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
      ...changes,
      agentId: agentId == null ? undefined : decodeId('Agent', agentId),
      publish: publish ?? true,
    }),
  }),
  payload: (t) => ({
    agentConfig: t.expose('agentConfig', { type: AgentConfig, description: 'The version that was published, or the draft.' }),
  }),
})
