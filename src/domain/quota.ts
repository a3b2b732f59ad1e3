import { setTimeout as delay } from 'node:timers/promises'
import type { Plan, QuotaLimit } from '../data/generated/enums.ts'
import type { QuotaReading } from './admission.ts'
import type { OperatorScope, Principal } from './authenticate.ts'
import { NotFound, Unavailable, ValidationProblem } from './errors.ts'
import { isUuid, tenantIdOf } from './ids.ts'
import { type QuotaOwner, quotaSourceOf, seeded } from './quota-terms.ts'
import { requireRole, type Scope, type TenantProfile } from './scope.ts'

/** What a tenant may use, has used, and what is left. */
export type QuotaStatus = { plan: Plan; limits: LimitStatus[] }

/** `reserved` is held for answers under way. `resetAt` is when more is left by itself; null when that is now, or does not depend on time. */
export type LimitStatus = {
  limit: QuotaLimit
  max: number
  used: number
  reserved: number
  remaining: number
  resetAt: number | null
}

/** What of each limit the reading says is used. */
function limitsOf({ now, terms, ...used }: QuotaReading): LimitStatus[] {
  const { limits, day, month } = terms
  const status = (limit: QuotaLimit, used: number, resetAt: number | null, reserved = 0): LimitStatus => {
    const max = limits[limit]
    return { limit, max, used, reserved, remaining: Math.max(0, max - used - reserved), resetAt }
  }
  return [
    status('MESSAGES_PER_MINUTE', used.minute, used.minuteResetAt > now ? used.minuteResetAt : null),
    status('MESSAGES_PER_DAY', used.today, day.end),
    status('TOKENS_PER_MESSAGE', 0, null),
    status('CONCURRENT_SESSIONS', used.sessions, null),
    status('MONTHLY_TOKENS', used.spent, month.end, used.reserved),
  ]
}

/** What the tenant has used of its limits. Throws Unavailable while that cannot be told. */
export async function readQuota(owner: QuotaOwner): Promise<QuotaReading> {
  const { tenant, ports } = owner
  return (await seeded(owner, (version) => ports.admission.read(tenant.id, version))).quota
}

/**
 * What a tenant may use and has used: for staff that of their own, for operators of any that they name. Throws NotFound for a tenant
 * that is not there, is erased, or is another's, and a ValidationProblem for operators who name none.
 */
export async function findQuota(principal: Principal, tenantId?: string | null): Promise<QuotaStatus> {
  if (principal.kind === 'operator') {
    if (tenantId == null) throw new ValidationProblem(['tenantId'], 'Say whose: operators have no tenant of their own.')
    const { owner, plan } = await residentOf(principal.operator, tenantId)
    return { plan, limits: limitsOf(await readQuota(owner)) }
  }
  const { scope } = principal
  requireRole(scope, 'MEMBER')
  if (tenantId != null && tenantId !== scope.tenant.id) throw new NotFound('tenant')
  return { plan: scope.tenant.plan, limits: limitsOf(await readQuota(scope)) }
}

/** The tenant, as the owner of its limits, for an operator. Throws NotFound when there is none, or it is erased. */
export async function residentOf(
  { catalog, data, ports }: OperatorScope,
  tenantId: string,
): Promise<{ owner: QuotaOwner; plan: Plan }> {
  if (!isUuid(tenantId)) throw new NotFound('tenant')
  const id = tenantIdOf(tenantId)
  const tenant = await catalog.quotas.findResident(id)
  if (!tenant || tenant.status === 'ERASED') throw new NotFound('tenant')
  const quotaSource = quotaSourceOf(data.of({ tenantId: id, userId: null }), id)
  return { owner: { tenant: { id, limitsVersion: tenant.limitsVersion }, quotaSource, ports }, plan: tenant.plan }
}

/** Least time between two values of a stream, and longest without a look. Milliseconds. */
const pause = 300
const longestSilence = 60 * 60_000

/** How long counters that cannot be reached are left alone. Milliseconds. */
const outagePause = 1_000

/**
 * What the tenant has used, at once and then each time it changed, a few times a second at most, until `signal` is aborted. An outage
 * of the counters holds the stream up and does not end it. Throws Forbidden, and Unavailable when even the first cannot be told.
 */
export async function* followQuota(scope: Scope, signal: AbortSignal): AsyncGenerator<QuotaStatus, void, undefined> {
  requireRole(scope, 'MEMBER')
  const { tenant, ports } = scope
  let changed = Promise.withResolvers<void>()
  const onChange = () => changed.resolve()
  // First, so that nothing is missed between the first value and the second.
  const unsubscribe = await ports.admission.subscribe(tenant.id, onChange)
  signal.addEventListener('abort', onChange)
  try {
    let profile: Pick<TenantProfile, 'plan' | 'limitsVersion'> = tenant
    let last: string | null = null
    while (!signal.aborted) {
      changed = Promise.withResolvers()
      const quota = await readOrNull(scope, last !== null)
      if (quota && quota.terms.version > profile.limitsVersion) {
        profile = (await scope.db.tenant.findFirst({ where: { id: tenant.id } })) ?? profile
      }
      const status = quota && { plan: profile.plan, limits: limitsOf(quota) }
      const text = JSON.stringify(status)
      if (status && text !== last) {
        last = text
        yield status
      }
      await elapsed(quota ? pause : outagePause, signal)
      await either(changed.promise, quota ? untilReset(quota) : 0)
    }
  } finally {
    signal.removeEventListener('abort', onChange)
    await unsubscribe()
  }
}

/** Null when the counters are away and that may be waited out. */
async function readOrNull(owner: QuotaOwner, patient: boolean): Promise<QuotaReading | null> {
  try {
    return await readQuota(owner)
  } catch (error) {
    if (patient && error instanceof Unavailable) return null
    throw error
  }
}

/** How long it takes until more is left, though nothing happens. Milliseconds. */
function untilReset({ now, minuteResetAt, terms }: QuotaReading): number {
  const times = [minuteResetAt, terms.day.end, terms.month.end, terms.validUntil ?? Number.POSITIVE_INFINITY]
  return Math.min(...times.filter((time) => time > now).map((time) => time - now), longestSilence)
}

/** Resolves when `event` has, and after so many milliseconds at the latest. Leaves no timer. */
async function either(event: Promise<void>, milliseconds: number): Promise<void> {
  const patience = new AbortController()
  await Promise.race([event, elapsed(milliseconds, patience.signal)])
  patience.abort()
}

/** Resolves also when the signal is aborted. */
async function elapsed(milliseconds: number, signal: AbortSignal): Promise<void> {
  await delay(milliseconds, undefined, { signal }).catch(() => undefined)
}
