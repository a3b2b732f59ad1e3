import type { TenantDb } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { RunTask } from './run-loop.ts'

/**
 * Claims the tenant's oldest queued run and pins, at its first claim, the configuration that is active. A conversation has
 * one run under way at a time, in the order in which they were asked for. Null when there is none to claim.
 */
export async function claimRun(db: TenantDb, tenantId: TenantId, workerId: string): Promise<RunTask['run'] | null> {
  const [claim] = await db.$queryRaw<{ id: string; epoch: number }[]>`
    update runs set
      status = 'RUNNING', epoch = runs.epoch + 1, worker_id = ${workerId}::uuid, started_at = coalesce(runs.started_at, now()),
      config_version = case when runs.epoch = 0 then v.version else runs.config_version end,
      model = case when runs.epoch = 0 then v.model else runs.model end
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.active_version
    where runs.tenant_id = ${tenantId}::uuid and a.tenant_id = runs.tenant_id and a.id = runs.agent_id and runs.id = (
      select r.id from runs r
      where r.tenant_id = ${tenantId}::uuid and r.status = 'QUEUED'
        and not exists (
          select from runs busy
          where busy.tenant_id = r.tenant_id and busy.conversation_id = r.conversation_id
            and busy.status in ('RUNNING', 'WAITING_APPROVAL', 'PAUSED_BUDGET'))
        and not exists (
          select from runs earlier
          where earlier.tenant_id = r.tenant_id and earlier.conversation_id = r.conversation_id
            and earlier.status = 'QUEUED' and (earlier.created_at, earlier.id) < (r.created_at, r.id))
      order by r.queued_at, r.id
      limit 1
      for update skip locked)
    returning runs.id, runs.epoch`
  if (!claim) return null
  return db.run.findFirst({ where: { id: claim.id, epoch: claim.epoch }, include: { config: true } })
}
