import type { Agent } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { type AgentConfigChange, type AgentConfigContent, checkChange } from './agent-config-change.ts'
import { isUuid, newId } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

/** All of the tenant's agents, oldest first, archived ones included. For members. */
export async function listAgents(scope: Scope): Promise<Agent[]> {
  requireRole(scope, 'MEMBER')
  return scope.db.agent.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
}

/** Null when there is no such agent. For members. */
export async function findAgent(scope: Scope, id: string): Promise<Agent | null> {
  requireRole(scope, 'MEMBER')
  return isUuid(id) ? scope.db.agent.findFirst({ where: { id } }) : null
}

/** Those of these agents that exist, by id. End users may see who answers them. */
export async function agentsByIds(scope: Scope, ids: readonly string[]): Promise<Map<string, Agent>> {
  requireRole(scope, 'END_USER')
  const agents = await scope.db.agent.findMany({ where: { id: { in: ids.filter(isUuid) } } })
  return new Map(agents.map((agent) => [agent.id, agent]))
}

export type NewAgent = { slug: string; name: string } & AgentConfigChange

/**
 * Gives a new tenant the agent that answers when none is named, with its first published configuration. What `agent` leaves
 * out is decided here. To be called in the transaction that sets the tenant up. For admins.
 */
export async function createDefaultAgent(
  scope: Scope,
  tx: TenantTransaction,
  { slug, name, ...change }: NewAgent,
): Promise<Agent> {
  requireRole(scope, 'ADMIN')
  const content = { ...initialContent(scope), ...(await checkChange(scope, tx, change)) }
  const ids = { tenantId: scope.tenant.id, agentId: newId() }
  const createdAt = new Date(scope.ports.now())
  const agent = await tx.agent.create({
    data: {
      id: ids.agentId,
      tenantId: ids.tenantId,
      slug: cleanText('slug', slug, { max: 100 }),
      name: cleanText('name', name, { max: 200 }),
      activeVersion: 1,
      createdAt,
    },
  })
  await tx.agentConfig.create({
    data: { ...content, ...ids, id: newId(), version: 1, status: 'PUBLISHED', createdAt, publishedAt: createdAt },
  })
  await tx.tenant.updateMany({ where: { id: ids.tenantId }, data: { defaultAgentId: agent.id } })
  return agent
}

function initialContent(scope: Scope): AgentConfigContent {
  return {
    systemPrompt: 'You are a helpful assistant.',
    model: scope.settings.defaultModel,
    fallbackModels: [],
    temperature: 0.7,
    maxOutputTokens: 4096,
    maxTurns: 10,
    enabledTools: [],
    branding: {},
  }
}
