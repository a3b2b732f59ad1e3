import type { Plan, QuotaLimit } from '../data/generated/enums.ts'
import type { OverrideRow } from '../data/quota-register.ts'
import { type AuditEntry, auditRow } from './audit.ts'
import type { OperatorScope } from './authenticate.ts'
import { ValidationProblem } from './errors.ts'
import { type TenantId, tenantIdOf } from './ids.ts'
import { readQuota, residentOf } from './quota.ts'
import type { TenantProfile } from './scope.ts'
import { presentTenant } from './tenant.ts'
import { cleanText } from './text.ts'
import { latestTime } from './time.ts'

export type QuotaOverride = OverrideRow

/** The highest that a limit can be set to. Beyond it a number is a typing error, and beyond 2^53 counters would lose count. */
const mostOf: Record<QuotaLimit, bigint> = {
  MESSAGES_PER_MINUTE: 1_000_000n,
  MESSAGES_PER_DAY: 1_000_000_000n,
  TOKENS_PER_MESSAGE: 1_000_000n,
  CONCURRENT_SESSIONS: 1_000_000n,
  MONTHLY_TOKENS: 1_000_000_000_000n,
}

/**
 * Gives a tenant another plan, whose limits hold on every instance when this returns. Overrides stay. A plan that it has already
 * changes nothing. Throws NotFound, also for a tenant that was erased, and a ValidationProblem for the reason. For operators.
 */
export async function changePlan(
  scope: OperatorScope,
  input: { tenantId: string; plan: Plan; reason?: string | null },
): Promise<{ tenant: TenantProfile }> {
  const { catalog } = scope
  const tenant = await presentTenant(scope, input.tenantId)
  const reason = input.reason == null ? undefined : checkReason(input.reason)
  const details = { from: tenant.plan, to: input.plan, ...(reason !== undefined && { reason }) }
  await catalog.quotas.changePlan(tenant.id, input.plan, auditOf(scope, tenant.id, 'changePlan', details))
  return afterwards(scope, tenant.id)
}

export type SetQuotaOverrideInput = {
  tenantId: string
  limit: QuotaLimit
  max: bigint
  /** From when on the plan's limit holds again; null for never. */
  expiresAt?: Date | null
  reason: string
}

/**
 * Sets a limit of a tenant in the place of its plan's, above or below it. It holds on every instance when this returns. The same
 * override again changes nothing. Throws NotFound, also for a tenant that was erased, and a ValidationProblem for a limit below 1 or
 * absurdly high, an expiry that is not in the future, and the reason. For operators.
 */
export async function setQuotaOverride(
  scope: OperatorScope,
  { tenantId, limit, max, expiresAt = null, reason }: SetQuotaOverrideInput,
): Promise<{ tenant: TenantProfile; override: QuotaOverride }> {
  const { catalog, ports } = scope
  const tenant = await presentTenant(scope, tenantId)
  const most = mostOf[limit]
  if (max < 1n || max > most) {
    throw new ValidationProblem(['max'], `The limit must be from 1 to ${most.toLocaleString('en')}.`)
  }
  const now = ports.now()
  if (expiresAt !== null && !(expiresAt.getTime() > now && expiresAt.getTime() <= latestTime)) {
    throw new ValidationProblem(['expiresAt'], 'The override must expire in the future.')
  }
  const override = { limit, max, reason: checkReason(reason), expiresAt, createdAt: new Date(now) }
  const details = { limit, max: Number(max), expiresAt: expiresAt?.toISOString() ?? null, reason: override.reason }
  await catalog.quotas.setOverride(tenant.id, override, auditOf(scope, tenant.id, 'setQuotaOverride', details))
  return { ...(await afterwards(scope, tenant.id)), override }
}

/**
 * Lets the plan's limit hold again, on every instance when this returns. Changes nothing when it does. Throws NotFound, also for a
 * tenant that was erased, and a ValidationProblem for the reason. For operators.
 */
export async function clearQuotaOverride(
  scope: OperatorScope,
  input: { tenantId: string; limit: QuotaLimit; reason: string },
): Promise<{ tenant: TenantProfile }> {
  const { limit } = input
  const tenant = await presentTenant(scope, input.tenantId)
  const details = { limit, reason: checkReason(input.reason) }
  await scope.catalog.quotas.clearOverride(tenant.id, limit, auditOf(scope, tenant.id, 'clearQuotaOverride', details))
  return afterwards(scope, tenant.id)
}

function auditOf({ operator, ports }: OperatorScope, tenantId: TenantId, action: string, details: AuditEntry['details']) {
  const entry = { action, subject: 'Tenant' as const, subjectId: tenantId, details }
  return auditRow(tenantId, { kind: 'OPERATOR', ...operator }, entry, ports.now())
}

/** The tenant as it is now. Whoever follows what it may use sees the change at once: counters need not be asked first. */
async function afterwards(scope: OperatorScope, tenantId: TenantId): Promise<{ tenant: TenantProfile }> {
  const tenant = await presentTenant(scope, tenantId)
  // Without the counters it is in force all the same: every request brings the version of the limits along.
  await Promise.allSettled([residentOf(scope, tenantIdOf(tenantId)).then(({ owner }) => readQuota(owner))])
  return { tenant }
}

function checkReason(reason: string): string {
  return cleanText('reason', reason, { max: 1_000 })
}
