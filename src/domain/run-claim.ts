import type { BudgetBehaviour } from '../data/generated/enums.ts'
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
}

/**
 * Claims the tenant's oldest queued run and pins, at its first claim, the configuration that is active. A conversation has
 * one run under way at a time, in the order in which they were asked for: the first that has not ended. Of a tenant that is not
 * active, only runs that have to end are claimed, to be ended. Null when there is none to claim.
 *
 * `finished_at`, null in all these rows, leads both orders so that the planner reads them off an index.
 */
export async function claimRun(
  db: TenantDb,
  tenantId: TenantId,
  workerId: string,
): Promise<Pick<RunTask, 'run' | 'tenant'> | null> {
  const [claim] = await db.$queryRaw<(RunTenant & { id: string; epoch: number; revokedAt: Date | null })[]>`
    update runs set
      status = 'RUNNING', epoch = runs.epoch + 1, worker_id = ${workerId}::uuid, started_at = coalesce(runs.started_at, now()),
      config_version = case when runs.epoch = 0 then v.version else runs.config_version end,
      model = case when runs.epoch = 0 then v.model else runs.model end
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.active_version,
      tenants own join plans p on p.plan = own.plan
    where runs.tenant_id = ${tenantId}::uuid and own.id = runs.tenant_id and a.tenant_id = runs.tenant_id and a.id = runs.agent_id and runs.id = (
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
    returning runs.id, runs.epoch, own.limits_version as "limitsVersion", own.quota_thresholds as "quotaThresholds",
      own.time_zone as "timeZone", p.weight, own.budget_behaviour as "budgetBehaviour",
      own.downgrade_model as "downgradeModel", own.downgrade_at as "downgradeAt", (
      select k.revoked_at from api_keys k where k.tenant_id = ${tenantId}::uuid and k.id = runs.api_key_id
    ) as "revokedAt"`
  if (!claim) return null
  const { id, epoch, revokedAt, ...tenant } = claim
  // It was asked for while the key was being revoked, and came too late to be stopped with the others.
  if (revokedAt) await requestStop(db, { id }, apiKeyRevoked, revokedAt)
  const run = await db.run.findFirst({ where: { id, epoch }, include: { config: true } })
  return run && { run, tenant }
}
