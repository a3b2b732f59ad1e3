import type { Agent, AgentConfig } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { agentIdOf, agentNamed } from './agent.ts'
import { type AgentConfigChange, checkChange } from './agent-config-change.ts'
import { holdRelease, readVersion, release, releaseOf } from './agent-release.ts'
import { recordAudit } from './audit.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { promptSizes } from './prompt.ts'
import { requireRole, type Scope } from './scope.ts'
import type { JsonObject } from './text.ts'

/** The published version that new runs of the agent use. Default: the default agent's. Throws NotFound. For members. */
export async function activeAgentConfig(scope: Scope, agentId?: string | null): Promise<AgentConfig> {
  requireRole(scope, 'MEMBER')
  const agent = await scope.db.agent.findFirst({ where: agentNamed(agentId), select: { id: true, activeVersion: true } })
  if (!agent) throw new NotFound('agent')
  return scope.db.agentConfig.findFirstOrThrow({ where: { agentId: agent.id, version: agent.activeVersion } })
}

/** All versions of the agent, drafts included, newest first. Default: the default agent's. Throws NotFound. For members. */
export async function listAgentConfigs(scope: Scope, page: PageArgs, named?: string | null): Promise<Page<AgentConfig>> {
  requireRole(scope, 'MEMBER')
  const agentId = await agentIdOf(scope, named)
  return paginate(page, { direction: 'desc' }, (where, orderBy, take) =>
    scope.db.agentConfig.findMany({ where: { ...where, agentId }, orderBy, take }),
  )
}

/** The active versions of these agents, by agent; those that do not exist are left out. For members. */
export async function activeConfigsByAgent(scope: Scope, agentIds: readonly string[]): Promise<Map<string, AgentConfig>> {
  return configsByAgent(scope, agentIds, ({ activeVersion }) => activeVersion)
}

/** The canaries of these agents, by agent; those that have none are left out. For members. */
export async function canariesByAgent(scope: Scope, agentIds: readonly string[]): Promise<Map<string, AgentConfig>> {
  return configsByAgent(scope, agentIds, ({ canaryVersion }) => canaryVersion)
}

async function configsByAgent(
  scope: Scope,
  agentIds: readonly string[],
  versionOf: (agent: Agent) => number | null,
): Promise<Map<string, AgentConfig>> {
  requireRole(scope, 'MEMBER')
  const agents = await scope.db.agent.findMany({ where: { id: { in: agentIds.filter(isUuid) } } })
  const versions = agents.flatMap((agent) => {
    const version = versionOf(agent)
    return version === null ? [] : [{ agentId: agent.id, version }]
  })
  if (versions.length === 0) return new Map()
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
 * is a new version that new runs use, the draft is used up, and there is no canary any more. Throws NotFound and ValidationProblem. For admins.
 */
export async function updateAgentConfig(
  scope: Scope,
  { idempotencyKey, ...input }: UpdateAgentConfigInput,
): Promise<AgentConfig> {
  requireRole(scope, 'ADMIN')
  const { agentId: named, publish = true, ...fields } = input
  const agentId = await agentIdOf(scope, named)
  const change = await checkChange(scope, scope.db, fields)
  if (change.handoffAgentIds?.includes(agentId)) {
    throw new ValidationProblem(['handoffAgentIds'], 'An agent cannot hand a conversation over to itself.')
  }
  return idempotent<AgentConfig>(
    scope,
    { mutation: 'updateAgentConfig', key: idempotencyKey, input },
    {
      perform: (remember) =>
        scope.db.$transaction(async (tx) => {
          const before = await holdRelease(scope, tx, agentId)
          const draft = await openDraft(scope, tx, agentId, before.activeVersion)
          await remember(tx, draft.id)
          const isCounted = change.systemPrompt === undefined && change.model === undefined
          const sizes = isCounted ? {} : promptSizes(scope.ports.model, { ...draft, ...change })
          await tx.agentConfig.updateMany({ where: { id: draft.id }, data: { ...change, ...sizes } })
          // Which fields, and not what is in them: a prompt is nobody's business but its authors'.
          const details = { agentId, version: draft.version, published: publish, fields: Object.keys(change).sort() }
          await recordAudit(scope, tx, { action: 'updateAgentConfig', subject: 'AgentConfig', subjectId: draft.id, details })
          return publish ? release(scope, tx, draft, releaseOf(draft.version, 100, before)) : readVersion(tx, draft.id)
        }),
      replay: (id) => readVersion(scope.db, id),
    },
  )
}

/**
 * The agent's draft; a new one, like the active version, when it has none. Its release is held, which is why there is never a second
 * draft.
 */
async function openDraft(scope: Scope, tx: TenantTransaction, agentId: string, activeVersion: number): Promise<AgentConfig> {
  const latest = await tx.agentConfig.findFirstOrThrow({ where: { agentId }, orderBy: { version: 'desc' } })
  if (latest.status === 'DRAFT') return latest
  const active = await tx.agentConfig.findFirstOrThrow({ where: { agentId, version: activeVersion } })
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
