import { type AgentConfig, Prisma, type Run } from '../data/generated/client.ts'
import type { BudgetBehaviour } from '../data/generated/enums.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { RunTask } from './run-loop.ts'
import { apiKeyRevoked, requestStop } from './run-stop.ts'

/** What whoever claimed a run has to know of its tenant. */
export type RunTenant = {
  limitsVersion: number
  quotaThresholds: number[]
  timeZone: string
  /** Its share of what tenants share, by its plan. */
  weight: number
  budgetBehaviour: BudgetBehaviour
  /** The model that answers once so many percent of the month's tokens are spent; null for always the agent's own. */
  downgradeModel: string | null
  downgradeAt: number
  /** As in its settings. */
  modelKeySecret: string | null
  modelBaseUrl: string | null
}

/** A run that was just claimed. */
export type ClaimedRun = Pick<RunTask, 'run' | 'tenant' | 'brief' | 'noted'>

/**
 * SQL for the version of the agent `a` that a run of this conversation pins: the active one or, in the conversations that its canary falls
 * to, the canary. Which these are is a hash of their ids, seeded by the version: a conversation stays with the canary, also when its
 * percentage grows, and each canary falls to others.
 */
export function versionToPin(conversationId: Prisma.Sql): Prisma.Sql {
  return Prisma.sql`case
    when (uuid_hash_extended(${conversationId}, a.canary_version) & 9223372036854775807) % 100 < a.canary_percent
      then a.canary_version
    else a.active_version end`
}

/** SQL: what a `RunTenant` is made of, where the tenant is called `own` and its plan `p`. */
const tenantColumns = Prisma.sql`own.limits_version as "limitsVersion", own.quota_thresholds as "quotaThresholds",
  own.time_zone as "timeZone", p.weight, own.budget_behaviour as "budgetBehaviour", own.downgrade_model as "downgradeModel",
  own.downgrade_at as "downgradeAt", own.model_key_secret as "modelKeySecret", own.model_base_url as "modelBaseUrl"`

/** What a run has to know of its tenant, and of nothing else that is read with it. */
export function takeTenant(row: Omit<RunTenant, 'weight'>): Omit<RunTenant, 'weight'> {
  const { limitsVersion, quotaThresholds, timeZone, budgetBehaviour, downgradeModel, downgradeAt } = row
  const { modelKeySecret, modelBaseUrl } = row
  return { limitsVersion, quotaThresholds, timeZone, budgetBehaviour, downgradeModel, downgradeAt, modelKeySecret, modelBaseUrl }
}

/**
 * Claims the tenant's oldest queued run and pins, at its first claim, the version that is in use. A conversation has
 * one run under way at a time, in the order in which they were asked for: the first that has not ended. Of a tenant that is not
 * active, only runs that have to end are claimed, to be ended. Null when there is none to claim.
 *
 * All in one round trip: somebody waits for the first token. `finished_at`, null in all these rows, leads both orders so that the
 * planner reads them off an index.
 */
export async function claimRun(db: TenantDb, tenantId: TenantId, workerId: string): Promise<NextRun | null> {
  const [row] = await db.$queryRaw<ClaimedRow[]>`
    update runs set
      status = 'RUNNING', epoch = runs.epoch + 1, worker_id = ${workerId}::uuid, started_at = coalesce(runs.started_at, now()),
      config_version = v.version, model = case when runs.epoch = 0 then v.model else runs.model end
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id,
      tenants own join plans p on p.plan = own.plan
    where runs.tenant_id = ${tenantId}::uuid and own.id = runs.tenant_id and a.tenant_id = runs.tenant_id and a.id = runs.agent_id
      and v.version = case when runs.epoch = 0 then ${versionToPin(Prisma.sql`runs.conversation_id`)} else runs.config_version end
      and runs.id = (
      select r.id from runs r
      where r.tenant_id = ${tenantId}::uuid and r.finished_at is null and r.status = 'QUEUED'
        -- One that found no session steps aside for a moment.
        and (r.excused_claims = 0 or r.queued_at <= now())
        and (r.cancel_requested_at is not null or exists (
          select from tenants t where t.id = ${tenantId}::uuid and t.status = 'ACTIVE'))
        and r.id = (
        select first.id from runs first
        where first.tenant_id = r.tenant_id and first.conversation_id = r.conversation_id and first.finished_at is null
        order by first.finished_at, first.created_at, first.id
        limit 1)
      order by r.finished_at, r.queued_at, r.id
      limit 1
      for update skip locked)
    returning ${columnsOf('Run', 'runs', 'run.')}, ${columnsOf('AgentConfig', 'v', 'config.')},
      ${tenantColumns}, (
      select k.revoked_at from api_keys k where k.tenant_id = ${tenantId}::uuid and k.id = runs.api_key_id
    ) as "revokedAt", exists (
      select from runs o where o.tenant_id = ${tenantId}::uuid and o.finished_at is null and o.status = 'QUEUED'
        and o.conversation_id <> runs.conversation_id
    ) as "othersWait"`
  if (!row) return null
  const run = takeModel<Run>('Run', row, 'run.')
  const config = takeModel<AgentConfig>('AgentConfig', row, 'config.')
  // It was asked for while the key was being revoked, and came too late to be stopped with the others.
  if (row.revokedAt && !run.cancelRequestedAt) {
    await requestStop(db, { id: run.id }, apiKeyRevoked, row.revokedAt)
    const { code: failureCode, message: failureMessage } = apiKeyRevoked
    Object.assign(run, { cancelRequestedAt: row.revokedAt, failureCode, failureMessage })
  }
  return {
    run: { ...run, config },
    tenant: { ...takeTenant(row), weight: row.weight },
    brief: null,
    noted: null,
    othersWait: row.othersWait,
  }
}

/** The run that was claimed for a wake-up, and whether others of its tenant wait that may be claimed beside it. */
type NextRun = ClaimedRun & { othersWait: boolean }

type ClaimedRow = RunTenant & { revokedAt: Date | null; othersWait: boolean } & Record<string, unknown>
