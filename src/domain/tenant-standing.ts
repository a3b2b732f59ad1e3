import type { TenantStatus } from '../data/generated/enums.ts'
import { auditRow } from './audit.ts'
import type { OperatorScope } from './authenticate.ts'
import { Conflict, NotFound } from './errors.ts'
import { isUuid, tenantIdOf } from './ids.ts'
import { stopRuns, tenantSuspended } from './run-stop.ts'
import type { TenantProfile } from './scope.ts'
import { profileOf } from './tenant.ts'
import { cleanText } from './text.ts'

/**
 * Shuts a tenant out: its credentials are refused, and within a second its connections and runs end. Its data stays. Suspending
 * it again ends what a call that was cut off left, and changes nothing else. Throws NotFound, a ValidationProblem for the reason,
 * and a Conflict for a tenant that is being moved or was erased. For operators.
 */
export async function suspendTenant(
  scope: OperatorScope,
  input: { tenantId: string; reason: string },
): Promise<{ tenant: TenantProfile }> {
  const reason = cleanText('reason', input.reason, { max: 1_000 })
  const tenant = await changeStanding(scope, input.tenantId, { action: 'suspendTenant', from: 'ACTIVE', to: 'SUSPENDED', reason })
  const db = scope.data.of({ tenantId: tenant.id, userId: null })
  await stopRuns({ tenant, db, ports: scope.ports }, {}, tenantSuspended)
  return { tenant }
}

/**
 * Lets a suspended tenant in again, with the credentials it had. Resuming one that is active changes nothing. Throws NotFound, and
 * a Conflict for a tenant that is being moved or was erased. For operators.
 */
export async function resumeTenant(scope: OperatorScope, { tenantId }: { tenantId: string }): Promise<{ tenant: TenantProfile }> {
  const tenant = await changeStanding(scope, tenantId, { action: 'resumeTenant', from: 'SUSPENDED', to: 'ACTIVE' })
  // What was asked for in the moment of suspension still waits.
  await Promise.allSettled([scope.ports.runQueue.wake(tenant.id)])
  return { tenant }
}

type Change = { action: string; from: TenantStatus; to: TenantStatus; reason?: string }

async function changeStanding(
  scope: OperatorScope,
  tenantId: string,
  { action, from, to, reason }: Change,
): Promise<TenantProfile> {
  const { catalog, ports, operator } = scope
  if (!isUuid(tenantId)) throw new NotFound('tenant')
  const id = tenantIdOf(tenantId)
  const entry = { action, subject: 'Tenant' as const, subjectId: id, details: reason === undefined ? {} : { reason } }
  const audit = auditRow(id, { kind: 'OPERATOR', ...operator }, entry, ports.now())
  await catalog.tenants.changeStatus(id, from, to, audit)
  const tenant = await catalog.findTenant(id)
  if (!tenant) throw new NotFound('tenant')
  if (tenant.status !== to) throw new Conflict(refusals[tenant.status])
  // Also when nothing changed: whoever changed it may not have come this far. A signal may be lost; versions are polled, too.
  await Promise.allSettled([ports.signals.publish({ type: 'AccessChanged', tenantId: id })])
  return profileOf(tenant)
}

/** Why a tenant stays as it is. The first two are for whoever was overtaken by another operator. */
const refusals: Record<TenantStatus, string> = {
  ACTIVE: 'The tenant was resumed meanwhile.',
  SUSPENDED: 'The tenant was suspended meanwhile.',
  MOVING: 'The tenant is being moved to another database. Try again when it has arrived there.',
  ERASED: 'The tenant was erased.',
}
