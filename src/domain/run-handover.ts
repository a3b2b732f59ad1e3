import { type AgentConfig, Prisma, type Run } from '../data/generated/client.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import type { Tool } from './ports.ts'
import { versionToPin } from './run-claim.ts'
import type { Turn } from './run-turn.ts'

/** A tool by which the model hands the conversation over to another agent of its tenant. */
type Handoff = { agentId: string; tool: Tool }

/** Characters of the name of a tool, by OpenAI's rules. */
const longestName = 64

/** The agents in use that the configuration lets a run of this agent be handed over to. */
export async function handoffsOf(db: TenantDb, { agentId, config }: Run & { config: AgentConfig }): Promise<Handoff[]> {
  if (config.handoffAgentIds.length === 0) return []
  const agents = await db.agent.findMany({
    where: { id: { in: config.handoffAgentIds, not: agentId }, archivedAt: null },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
  })
  let isTaken = false
  return agents.map(({ id, slug, name }) => ({
    agentId: id,
    tool: {
      name: `hand_over_to_${slug.replace(/[^\w-]/g, '_')}`.slice(0, longestName),
      description: `Hands the conversation over to ${name}, another agent, who answers from then on.`,
      parameters: {
        type: 'object',
        properties: { reason: { type: 'string', description: 'What the other agent should know.' } },
        additionalProperties: false,
      },
      isRepeatable: true,
      asksFirst: () => false,
      async call() {
        if (isTaken) throw new Error('The conversation was handed over to another agent already.')
        isTaken = true
        return `The conversation was handed over to ${name}.`
      },
    },
  }))
}

/** The agent that the turn's tool calls handed over to; null for none. */
export function handedTo({ toolCalls, results }: Turn, handoffs: readonly Handoff[]): string | null {
  const done = new Set(results.flatMap(({ toolCallId, outcome }) => (outcome === 'COMPLETED' ? [toolCallId] : [])))
  const call = toolCalls.find(({ id, name }) => done.has(id) && handoffs.some(({ tool }) => tool.name === name))
  return handoffs.find(({ tool }) => tool.name === call?.name)?.agentId ?? null
}

/**
 * Stores the turns of a claimed run and hands it over to another agent: it pins the version that is in use of that one, as the runs
 * that wait behind it will, and the conversation is that agent's. A run that a cheaper model answers goes on with it. False, and nothing is
 * changed, when the run is no longer that claim's.
 */
export async function handOver(tx: TenantTransaction, run: HandedRun, turns: Turn[], agentId: string): Promise<boolean> {
  const { tenantId, id, epoch, conversationId } = run
  // The conversation first, as whoever adds a run or ends one does.
  await tx.$queryRaw`
    select from conversations where tenant_id = ${tenantId}::uuid and id = ${conversationId}::uuid for no key update`
  const count = await tx.$executeRaw`
    update runs set agent_id = a.id, config_version = v.version, turns = ${JSON.stringify(turns)}::jsonb,
      model = case when runs.downgraded_from is null then v.model else runs.model end,
      downgraded_from = case when runs.downgraded_from is null then null else v.model end
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id
    where runs.tenant_id = ${tenantId}::uuid and runs.id = ${id}::uuid and runs.epoch = ${epoch}::int and runs.status = 'RUNNING'
      and a.tenant_id = runs.tenant_id and a.id = ${agentId}::uuid and v.version = ${versionToPin(Prisma.sql`runs.conversation_id`)}`
  if (count === 0) return false
  await tx.conversation.updateMany({ where: { id: conversationId }, data: { agentId } })
  await tx.$executeRaw`
    update runs set agent_id = a.id, config_version = a.active_version, model = v.model
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.active_version
    where runs.tenant_id = ${tenantId}::uuid and runs.conversation_id = ${conversationId}::uuid and runs.finished_at is null
      and runs.epoch = 0 and a.tenant_id = runs.tenant_id and a.id = ${agentId}::uuid`
  return true
}

type HandedRun = Pick<Run, 'tenantId' | 'id' | 'epoch' | 'conversationId'>

/** The run as it was stored when it was handed over; null when it is no longer that claim's. */
export async function readHandedOver(db: TenantDb, { id, epoch }: Run): Promise<(Run & { config: AgentConfig }) | null> {
  return db.run.findFirst({ where: { id, epoch, status: 'RUNNING' }, include: { config: true } })
}
