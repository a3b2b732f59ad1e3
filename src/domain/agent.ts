import type { Agent } from '../data/generated/client.ts'
import type { AgentWhereInput } from '../data/generated/models.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { type AgentConfigChange, type AgentConfigContent, checkChange } from './agent-config-change.ts'
import { checkSlug, freeSlug } from './agent-slug.ts'
import { recordAudit } from './audit.ts'
import { Conflict, NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { promptSizes } from './prompt.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

/** Agents of a tenant that are in use, and all that there are: none is ever deleted, since runs name them. */
const mostInUse = 100
const most = 1_000

const longestName = 200

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

/**
 * The condition on the agent that is named, and on the tenant's default one where none is. Which one that is the database says: the
 * scope of a socket may be older than the last change of it.
 */
export function agentNamed(id: string | null | undefined): AgentWhereInput {
  if (id == null) return { defaultOf: { is: {} } }
  return { id: { in: [id].filter(isUuid) } }
}

/** The id of the agent that is named, or of the default one. Throws NotFound. */
export async function agentIdOf({ db }: Scope, named: string | null | undefined): Promise<string> {
  const agent = await db.agent.findFirst({ where: agentNamed(named), select: { id: true } })
  if (!agent) throw new NotFound('agent')
  return agent.id
}

/** Which of these agents is the default one: one at most. End users may see that, too. */
export async function defaultAmong(scope: Scope, ids: readonly string[]): Promise<Map<string, true>> {
  requireRole(scope, 'END_USER')
  const agents = await scope.db.agent.findMany({
    where: { ...agentNamed(null), id: { in: ids.filter(isUuid) } },
    select: { id: true },
  })
  return new Map(agents.map(({ id }) => [id, true]))
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
  const named = {
    slug: cleanText('slug', slug, { max: 100 }),
    name: cleanText('name', name, { max: longestName }),
  }
  const agent = await insertAgent(scope, tx, { id: newId(), ...named }, content)
  await tx.tenant.updateMany({ where: { id: scope.tenant.id }, data: { defaultAgentId: agent.id } })
  return agent
}

export type CreateAgentInput = AgentConfigChange & {
  name: string
  /** Default: made from the name, with a number where that is taken. */
  slug?: string | null
  idempotencyKey?: string | null
}

/**
 * Makes another agent, with its first published configuration; what the input leaves out is as a new tenant's agent has it. Throws a
 * ValidationProblem also for a slug that is taken, and a Conflict when there are too many agents. For admins.
 */
export async function createAgent(scope: Scope, { idempotencyKey, ...input }: CreateAgentInput): Promise<Agent> {
  requireRole(scope, 'ADMIN')
  const { name: text, slug: wanted, ...change } = input
  const name = cleanText('name', text, { max: longestName })
  if (wanted != null) checkSlug(wanted)
  const content = { ...initialContent(scope), ...(await checkChange(scope, scope.db, change)) }
  return idempotent(
    scope,
    { mutation: 'createAgent', key: idempotencyKey, input },
    {
      perform: (remember) =>
        scope.db.$transaction(async (tx) => {
          const id = newId()
          await remember(tx, id)
          await holdDefault(scope, tx)
          const taken = await takenSlugs(tx)
          if (wanted != null && taken.has(wanted)) throw new ValidationProblem(['slug'], 'Another agent has this slug.')
          const slug = wanted ?? freeSlug(name, taken)
          const agent = await insertAgent(scope, tx, { id, slug, name }, content)
          const details = { slug, name, fields: Object.keys(change).sort() }
          await recordAudit(scope, tx, { action: 'createAgent', subject: 'Agent', subjectId: id, details })
          return agent
        }),
      replay: (id) => readAgent(scope.db, id),
    },
  )
}

/** Gives an agent another name; its slug stays. Throws NotFound. For admins. */
export async function renameAgent(scope: Scope, { agentId, name }: { agentId: string; name: string }): Promise<Agent> {
  requireRole(scope, 'ADMIN')
  const data = { name: cleanText('name', name, { max: longestName }) }
  return scope.db.$transaction(async (tx) => {
    const before = await readAgent(tx, agentId)
    const { count } = await tx.agent.updateMany({ where: { id: agentId, name: { not: data.name } }, data })
    if (count === 0) return before
    const details = { from: before.name, to: data.name }
    await recordAudit(scope, tx, { action: 'renameAgent', subject: 'Agent', subjectId: agentId, details })
    return { ...before, ...data }
  })
}

/**
 * Puts an agent aside: it answers no new conversation and no new message. Runs that are asked for by then go on. Archiving it again
 * changes nothing. Throws NotFound, and a Conflict for the default agent. For admins.
 */
export async function archiveAgent(scope: Scope, { agentId }: { agentId: string }): Promise<Agent> {
  requireRole(scope, 'ADMIN')
  return scope.db.$transaction(async (tx) => {
    const defaultAgentId = await holdDefault(scope, tx)
    const agent = await readAgent(tx, agentId)
    if (agent.archivedAt) return agent
    if (agent.id === defaultAgentId) {
      throw new Conflict('The default agent answers where none is named. Make another agent the default first.')
    }
    const archivedAt = new Date(scope.ports.now())
    await tx.agent.updateMany({ where: { id: agentId }, data: { archivedAt } })
    const details = { slug: agent.slug, name: agent.name }
    await recordAudit(scope, tx, { action: 'archiveAgent', subject: 'Agent', subjectId: agentId, details })
    return { ...agent, archivedAt }
  })
}

/** Makes an agent the one that answers where none is named. Throws NotFound, and a Conflict for an archived one. For admins. */
export async function setDefaultAgent(scope: Scope, { agentId }: { agentId: string }): Promise<Agent> {
  requireRole(scope, 'ADMIN')
  return scope.db.$transaction(async (tx) => {
    const defaultAgentId = await holdDefault(scope, tx)
    const agent = await readAgent(tx, agentId)
    if (agent.archivedAt) throw new Conflict('The agent is archived: it answers nothing new.')
    if (agent.id === defaultAgentId) return agent
    await tx.tenant.updateMany({ where: { id: scope.tenant.id }, data: { defaultAgentId: agentId } })
    const details = { slug: agent.slug, before: defaultAgentId }
    await recordAudit(scope, tx, { action: 'setDefaultAgent', subject: 'Agent', subjectId: agentId, details })
    return agent
  })
}

/**
 * The default agent's id. Until the transaction ends nobody else makes, archives or prefers an agent: so there is always a default one
 * in use, and two that are made at once do not both find the last place or the same slug.
 */
async function holdDefault({ tenant }: Scope, tx: TenantTransaction): Promise<string | null> {
  const [row] = await tx.$queryRaw<{ defaultAgentId: string | null }[]>`
    select default_agent_id as "defaultAgentId" from tenants where id = ${tenant.id}::uuid for no key update`
  return row?.defaultAgentId ?? null
}

async function takenSlugs(tx: TenantTransaction): Promise<Set<string>> {
  const agents = await tx.agent.findMany({ select: { slug: true, archivedAt: true } })
  if (agents.filter(({ archivedAt }) => archivedAt === null).length >= mostInUse) {
    throw new Conflict(`There are ${mostInUse} agents already. Archive one first.`)
  }
  if (agents.length >= most)
    throw new Conflict(`There can be ${most.toLocaleString('en')} agents at most, archived ones included.`)
  return new Set(agents.map(({ slug }) => slug))
}

async function insertAgent(
  { tenant, ports }: Scope,
  tx: TenantTransaction,
  named: Pick<Agent, 'id' | 'slug' | 'name'>,
  content: AgentConfigContent,
): Promise<Agent> {
  const tenantId = tenant.id
  const createdAt = new Date(ports.now())
  const agent = await tx.agent.create({ data: { ...named, tenantId, activeVersion: 1, createdAt } })
  const published = { version: 1, status: 'PUBLISHED', createdAt, publishedAt: createdAt } as const
  const sizes = promptSizes(ports.model, content)
  await tx.agentConfig.createMany({ data: { ...content, ...sizes, ...published, id: newId(), tenantId, agentId: agent.id } })
  return agent
}

async function readAgent(db: TenantTransaction, id: string): Promise<Agent> {
  const agent = isUuid(id) ? await db.agent.findFirst({ where: { id } }) : null
  if (!agent) throw new NotFound('agent')
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
    historyPolicy: 'ALL',
    historyExchanges: 10,
    handoffAgentIds: [],
    budgetBehaviour: null,
  }
}
