import type { AgentConfig } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { type AgentConfigChange, checkChange } from './agent-config-change.ts'
import { recordAudit } from './audit.ts'
import { NotFound } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'
import type { JsonObject } from './text.ts'

/** The published version that new runs of the agent use. Default: the default agent's. Throws NotFound. For members. */
export async function activeAgentConfig(scope: Scope, agentId?: string | null): Promise<AgentConfig> {
  requireRole(scope, 'MEMBER')
  const id = agentId ?? scope.tenant.defaultAgentId
  const config = id === null ? undefined : (await activeConfigsByAgent(scope, [id])).get(id)
  if (!config) throw new NotFound('agent')
  return config
}

/** The active versions of these agents, by agent; those that do not exist are left out. For members. */
export async function activeConfigsByAgent(scope: Scope, agentIds: readonly string[]): Promise<Map<string, AgentConfig>> {
  requireRole(scope, 'MEMBER')
  const agents = await scope.db.agent.findMany({
    where: { id: { in: agentIds.filter(isUuid) } },
    select: { id: true, activeVersion: true },
  })
  if (agents.length === 0) return new Map()
  const versions = agents.map(({ id, activeVersion }) => ({ agentId: id, version: activeVersion }))
  const configs = await scope.db.agentConfig.findMany({ where: { OR: versions } })
  return new Map(configs.map((config) => [config.agentId, config]))
}

/** Any version, drafts included; null when there is no such version. For members. */
export async function findAgentConfig(scope: Scope, id: string): Promise<AgentConfig | null> {
  requireRole(scope, 'MEMBER')
  return isUuid(id) ? scope.db.agentConfig.findFirst({ where: { id } }) : null
}

export type UpdateAgentConfigInput = AgentConfigChange & {
  /** Default: the default agent. */
  agentId?: string | null
  /** Whether the change is put to use at once, or kept as the agent's one draft. Default true. */
  publish?: boolean
  idempotencyKey?: string | null
}

/**
 * Changes what `input` names on top of the agent's draft, or, when it has none, of its active version. Published, the result
 * is a new version that new runs use, and the draft is used up. Throws NotFound and ValidationProblem. For admins.
 */
export async function updateAgentConfig(
  scope: Scope,
  { idempotencyKey, ...input }: UpdateAgentConfigInput,
): Promise<AgentConfig> {
  requireRole(scope, 'ADMIN')
  const { agentId: named, publish = true, ...fields } = input
  const agentId = named ?? scope.tenant.defaultAgentId
  if (agentId === null || !isUuid(agentId)) throw new NotFound('agent')
  const change = await checkChange(scope, scope.db, fields)
  return idempotent<AgentConfig>(
    scope,
    { mutation: 'updateAgentConfig', key: idempotencyKey, input },
    {
      perform: (remember) =>
        scope.db.$transaction(async (tx) => {
          const draft = await openDraft(scope, tx, agentId)
          await remember(tx, draft.id)
          await tx.agentConfig.updateMany({ where: { id: draft.id }, data: change })
          // Which fields, and not what is in them: a prompt is nobody's business but its authors'.
          const details = { agentId, version: draft.version, published: publish, fields: Object.keys(change).sort() }
          await recordAudit(scope, tx, { action: 'updateAgentConfig', subject: 'AgentConfig', subjectId: draft.id, details })
          return publish ? publishDraft(scope, tx, draft) : readVersion(tx, draft.id)
        }),
      replay: (id) => readVersion(scope.db, id),
    },
  )
}

/**
 * The agent's draft; a new one, like the active version, when it has none. Until the transaction ends nobody else changes
 * the agent's configuration, which is why there is never a second draft.
 */
async function openDraft(scope: Scope, tx: TenantTransaction, agentId: string): Promise<AgentConfig> {
  const tenantId = scope.tenant.id
  // NO KEY, so that conversations and runs, which refer to the agent, can be added meanwhile.
  const [agent] = await tx.$queryRaw<{ activeVersion: number }[]>`
    select active_version as "activeVersion" from agents
    where tenant_id = ${tenantId}::uuid and id = ${agentId}::uuid
    for no key update`
  if (!agent) throw new NotFound('agent')
  const latest = await tx.agentConfig.findFirstOrThrow({ where: { agentId }, orderBy: { version: 'desc' } })
  if (latest.status === 'DRAFT') return latest
  const active = await tx.agentConfig.findFirstOrThrow({ where: { agentId, version: agent.activeVersion } })
  return tx.agentConfig.create({
    data: {
      ...active,
      id: newId(),
      version: latest.version + 1,
      status: 'DRAFT',
      branding: active.branding as JsonObject,
      createdAt: new Date(scope.ports.now()),
      publishedAt: null,
    },
  })
}

/** From here on the version never changes, and new runs use it. */
async function publishDraft(scope: Scope, tx: TenantTransaction, { id, agentId, version }: AgentConfig): Promise<AgentConfig> {
  const publishedAt = new Date(scope.ports.now())
  await tx.agentConfig.updateMany({ where: { id }, data: { status: 'PUBLISHED', publishedAt } })
  await tx.agent.updateMany({ where: { id: agentId }, data: { activeVersion: version } })
  return readVersion(tx, id)
}

async function readVersion(tx: TenantTransaction, id: string): Promise<AgentConfig> {
  const config = await tx.agentConfig.findFirst({ where: { id } })
  if (!config) throw new NotFound('agent configuration')
  return config
}
