import type { Agent, AgentConfig } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { agentIdOf } from './agent.ts'
import { recordAudit } from './audit.ts'
import { Conflict, NotFound, ValidationProblem } from './errors.ts'
import { isUuid } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'

/** What new runs of an agent pin. */
export type Release = Pick<Agent, 'activeVersion' | 'canaryVersion' | 'canaryPercent'>

export type PublishAgentConfigInput = {
  agentConfigId: string
  /** The share of conversations whose new runs use it, 1 to 100. Default 100: it is the active version from then on. */
  canaryPercent?: number | null
}

/**
 * Puts a version to use. A draft becomes immutable by it. With less than 100 percent it is the agent's canary beside the active version,
 * in the place of any other; else it is the active version, and there is no canary any more. What is so already is not changed. Throws
 * NotFound, a ValidationProblem for another percentage, and a Conflict when the active version is to be its own canary. For admins.
 */
export async function publishAgentConfig(scope: Scope, input: PublishAgentConfigInput): Promise<AgentConfig> {
  requireRole(scope, 'ADMIN')
  const { agentConfigId: id, canaryPercent } = input
  const percent = canaryPercent ?? 100
  if (!Number.isInteger(percent) || percent < 1 || percent > 100) {
    throw new ValidationProblem(['canaryPercent'], 'The value must be a whole number from 1 to 100.')
  }
  return scope.db.$transaction(async (tx) => {
    const { agentId } = await readVersion(tx, id)
    const before = await holdRelease(scope, tx, agentId)
    const config = await readVersion(tx, id)
    const after = releaseOf(config.version, percent, before)
    if (config.status === 'PUBLISHED' && isSame(before, after)) return config
    const published = await release(scope, tx, config, after)
    const details = { agentId, version: config.version, canaryPercent: after.canaryPercent, before: { ...before } }
    await recordAudit(scope, tx, { action: 'publishAgentConfig', subject: 'AgentConfig', subjectId: id, details })
    return published
  })
}

export type RollbackAgentConfigInput = {
  /** Default: the default agent. */
  agentId?: string | null
  version: number
}

/**
 * Makes a version that was published before the active one again, and ends the canary. No version is made. Throws NotFound, and a Conflict
 * for a draft. For admins.
 */
export async function rollbackAgentConfig(scope: Scope, input: RollbackAgentConfigInput): Promise<AgentConfig> {
  requireRole(scope, 'ADMIN')
  const agentId = await agentIdOf(scope, input.agentId)
  return scope.db.$transaction(async (tx) => {
    const before = await holdRelease(scope, tx, agentId)
    const config = await findVersion(tx, agentId, input.version)
    if (config.status === 'DRAFT') throw new Conflict('A draft was never in use. Publish it instead.')
    const after = releaseOf(config.version, 100, before)
    if (isSame(before, after)) return config
    await release(scope, tx, config, after)
    const details = { agentId, version: config.version, before: { ...before } }
    await recordAudit(scope, tx, { action: 'rollbackAgentConfig', subject: 'AgentConfig', subjectId: config.id, details })
    return config
  })
}

/**
 * What the agent's new runs pin. Until the transaction ends nobody else changes the agent's configuration or what is in use of it. Throws
 * NotFound.
 */
export async function holdRelease({ tenant }: Scope, tx: TenantTransaction, agentId: string): Promise<Release> {
  // NO KEY, so that conversations and runs, which refer to the agent, can be added meanwhile.
  const [agent] = await tx.$queryRaw<Release[]>`
    select active_version as "activeVersion", canary_version as "canaryVersion", canary_percent as "canaryPercent" from agents
    where tenant_id = ${tenant.id}::uuid and id = ${agentId}::uuid
    for no key update`
  if (!agent) throw new NotFound('agent')
  return agent
}

/** From here on the version never changes, and new runs pin what `after` says. */
export async function release(
  scope: Scope,
  tx: TenantTransaction,
  { id, agentId, status }: AgentConfig,
  after: Release,
): Promise<AgentConfig> {
  if (status === 'DRAFT') {
    const publishedAt = new Date(scope.ports.now())
    await tx.agentConfig.updateMany({ where: { id }, data: { status: 'PUBLISHED', publishedAt } })
  }
  await tx.agent.updateMany({ where: { id: agentId }, data: after })
  return readVersion(tx, id)
}

/** What is in use once so many percent of the conversations use the version. */
export function releaseOf(version: number, percent: number, { activeVersion }: Release): Release {
  if (percent === 100) return { activeVersion: version, canaryVersion: null, canaryPercent: null }
  if (version === activeVersion) throw new Conflict('The version is the active one: another one can be its canary.')
  return { activeVersion, canaryVersion: version, canaryPercent: percent }
}

function isSame(a: Release, b: Release): boolean {
  return a.activeVersion === b.activeVersion && a.canaryVersion === b.canaryVersion && a.canaryPercent === b.canaryPercent
}

/** The version of this number. Throws NotFound. */
export async function findVersion(db: TenantTransaction, agentId: string, version: number): Promise<AgentConfig> {
  const config = await db.agentConfig.findFirst({ where: { agentId, version } })
  if (!config) throw new NotFound('agent configuration')
  return config
}

/** The version of this id. Throws NotFound. */
export async function readVersion(db: TenantTransaction, id: string): Promise<AgentConfig> {
  const config = isUuid(id) ? await db.agentConfig.findFirst({ where: { id } }) : null
  if (!config) throw new NotFound('agent configuration')
  return config
}
