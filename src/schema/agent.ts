import type { Agent as AgentRow } from '../data/generated/client.ts'
import { agentsByIds, findAgent, listAgents } from '../domain/agent.ts'
import { activeConfigsByAgent } from '../domain/agent-config.ts'
import { AgentConfig } from './agent-config.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { loader } from './loader.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

/** Agents by id. */
export const agents = loader((context, ids) => agentsByIds(scopeOf(context), ids))

const configs = loader((context, agentIds) => activeConfigsByAgent(scopeOf(context), agentIds))

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
      resolve: (agent, _args, context) => scopeOf(context).tenant.defaultAgentId === agent.id,
    }),
    config: t.field({
      type: AgentConfig,
      nullable: true,
      description: 'The active configuration. Null for end users, who may not read it.',
      authScopes: { member: true },
      unauthorizedResolver: () => null,
      resolve: (agent, _args, context) => configs(context).load(agent.id),
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
