import type { Agent as AgentRow } from '../data/generated/client.ts'
import {
  agentsByIds,
  archiveAgent,
  createAgent,
  defaultAmong,
  findAgent,
  listAgents,
  renameAgent,
  setDefaultAgent,
} from '../domain/agent.ts'
import { brandingByAgent } from '../domain/agent-branding.ts'
import { activeConfigsByAgent, canariesByAgent } from '../domain/agent-config.ts'
import { AgentBranding } from './agent-branding.ts'
import { AgentConfig, configFields, decodeHandoffs } from './agent-config.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { existing, loader } from './loader.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

/** Agents by id. */
export const agents = loader((context, ids) => agentsByIds(scopeOf(context), ids))

const configs = loader((context, agentIds) => activeConfigsByAgent(scopeOf(context), agentIds))

const canaries = loader((context, agentIds) => canariesByAgent(scopeOf(context), agentIds))

const brandings = loader((context, agentIds) => brandingByAgent(scopeOf(context), agentIds))

const defaults = loader((context, agentIds) => defaultAmong(scopeOf(context), agentIds))

type Canary = { percent: number; agentId: string }

const AgentCanary = builder.objectRef<Canary>('AgentCanary').implement({
  description: 'A version that is tried on some of the conversations, beside the active one.',
  authScopes: { member: true },
  fields: (t) => ({
    percent: t.exposeInt('percent', { description: 'The share of conversations whose new runs use it: 1 to 99.' }),
    config: t.field({
      type: AgentConfig,
      description: 'The version.',
      resolve: ({ agentId }, _args, context) => existing('agent configuration', canaries(context).load(agentId)),
    }),
  }),
})

export const Agent = builder.objectRef<AgentRow>('Agent')

Agent.implement({
  description: "One of a tenant's agents. What it says and how is in its configuration.",
  interfaces: [Node],
  authScopes: { endUser: true },
  fields: (t) => ({
    id: t.id(idField('Agent')),
    slug: t.exposeString('slug', { description: 'Short name for use in code; unique in the tenant.' }),
    name: t.exposeString('name', { description: 'Name for people.' }),
    isDefault: t.boolean({
      description: 'Whether this agent answers where no agent is named. Exactly one does.',
      resolve: async (agent, _args, context) => (await defaults(context).load(agent.id)) !== null,
    }),
    branding: t.field({
      type: AgentBranding,
      description: "How the tenant's frontends present it, by its active configuration. End users see it, too.",
      resolve: (agent, _args, context) => existing('agent', brandings(context).load(agent.id)),
    }),
    config: t.field({
      type: AgentConfig,
      nullable: true,
      description: 'The active configuration. Null for end users, who may not read it.',
      authScopes: { member: true },
      unauthorizedResolver: () => null,
      resolve: (agent, _args, context) => configs(context).load(agent.id),
    }),
    canary: t.field({
      type: AgentCanary,
      nullable: true,
      description: 'The version that is tried beside the active one. Null without one, and for end users.',
      authScopes: { member: true },
      unauthorizedResolver: () => null,
      resolve: ({ id, canaryPercent }) => (canaryPercent === null ? null : { percent: canaryPercent, agentId: id }),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made.' }),
    archivedAt: t.expose('archivedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was put aside. Null while it is in use.',
    }),
  }),
})

resolveNodesOf('Agent', { authScopes: { member: true }, load: (context, uuid) => findAgent(scopeOf(context), uuid) })

builder.queryFields((t) => ({
  agents: t.field({
    type: [Agent],
    description: "The tenant's agents, oldest first. For members and admins.",
    authScopes: { member: true },
    resolve: (_root, _args, context) => listAgents(scopeOf(context)),
  }),
  agent: t.field({
    type: Agent,
    nullable: true,
    description: 'One agent. Null when there is no such agent. For members and admins.',
    authScopes: { member: true },
    args: { id: t.arg.id({ required: true, description: 'Its id.' }) },
    resolve: (_root, { id }, context) => findAgent(scopeOf(context), decodeId('Agent', id)),
  }),
}))

const which = (t: IdFields) => ({ agentId: t.id({ required: true, description: 'Which agent.' }) })

type IdFields = PothosSchemaTypes.InputFieldBuilder<(typeof builder)['$inferSchemaTypes'], 'InputObject'>

mutation('createAgent', {
  description:
    'Makes another agent, with its first published configuration. What is left out is as a new tenant’s agent has it. A tenant has at most 100 agents in use. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    name: t.string({ required: true, description: 'Name for people. At most 200 bytes.' }),
    slug: t.string({
      description:
        'Short name for use in code, unique in the tenant: at most 50 small letters and digits, with single hyphens between them. Default: made from the name.',
    }),
    ...configFields(t),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes one agent.',
    }),
  }),
  resolve: async (scope, input) => ({ agent: await createAgent(scope, decodeHandoffs(input)) }),
  payload: (t) => ({ agent: t.expose('agent', { type: Agent, description: 'The new agent.' }) }),
})

mutation('renameAgent', {
  description: 'Gives an agent another name. Its slug stays. For admins.',
  authScopes: { admin: true },
  input: (t) => ({ ...which(t), name: t.string({ required: true, description: 'Its new name. At most 200 bytes.' }) }),
  resolve: async (scope, { agentId, name }) => ({
    agent: await renameAgent(scope, { agentId: decodeId('Agent', agentId), name }),
  }),
  payload: (t) => ({ agent: t.expose('agent', { type: Agent, description: 'The renamed agent.' }) }),
})

mutation('archiveAgent', {
  description:
    'Puts an agent aside: it answers no new conversation and no new message. Runs that were asked for before go on. Archiving it again changes nothing; the default agent is a Conflict. For admins.',
  authScopes: { admin: true },
  input: which,
  resolve: async (scope, { agentId }) => ({ agent: await archiveAgent(scope, { agentId: decodeId('Agent', agentId) }) }),
  payload: (t) => ({ agent: t.expose('agent', { type: Agent, description: 'The archived agent.' }) }),
})

mutation('setDefaultAgent', {
  description: 'Makes an agent the one that answers where none is named. An archived one is a Conflict. For admins.',
  authScopes: { admin: true },
  input: which,
  resolve: async (scope, { agentId }) => ({ agent: await setDefaultAgent(scope, { agentId: decodeId('Agent', agentId) }) }),
  payload: (t) => ({ agent: t.expose('agent', { type: Agent, description: 'The agent that is the default now.' }) }),
})
