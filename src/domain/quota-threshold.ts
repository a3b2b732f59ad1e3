import { isFenced } from '../data/fence.ts'
import type { QuotaLimit, Tenant } from '../data/generated/client.ts'
import { isOutage } from '../data/outage.ts'
import type { Period, QuotaReading } from './admission.ts'
import { type Notice, type NoticeOwner, notifyAdmins } from './notification.ts'
import type { Signals } from './ports.ts'

/** As the tenant set them. */
export type ThresholdSettings = { quotaThresholds: readonly number[] } & Pick<Tenant, 'timeZone'>

/** A limit of which a threshold was reached. */
type Crossing = { limit: WatchedLimit; threshold: number; used: number; max: number; period: Period; memory: string }

/** The limits that run out over a period. The others come back within seconds. */
type WatchedLimit = 'MONTHLY_TOKENS' | 'MESSAGES_PER_DAY'

/** What this process knows to be told, for each platform in it. Disposable: Postgres tells nothing twice. */
const told = new WeakMap<Signals, Set<string>>()

/** Thresholds that are remembered; the oldest are forgotten, and found to be told when they come up again. */
const mostRemembered = 50_000

/**
 * Tells the tenant's admins of each threshold that the reading shows to be reached, once in a day or month for each limit, however
 * many processes see it, and however often. What counts is the share of the limit as it is now: under another plan, or other
 * thresholds, those that are reached then and were not told of in this period are told.
 *
 * `refused` is the limit that has just refused something until its period ends: that counts as all of it, since what is left is too
 * little for anything. Costs no I/O when nothing new was reached. Never rejects: what could not be told is told with the next
 * reading. Nobody has to wait for it.
 */
export async function noticeThresholds(
  owner: NoticeOwner,
  settings: ThresholdSettings,
  quota: QuotaReading,
  refused: QuotaLimit | null = null,
): Promise<void> {
  const known = told.get(owner.ports.signals) ?? new Set()
  told.set(owner.ports.signals, known)
  const { id } = owner.tenant
  const reached = [
    ...crossingsOf(id, 'MONTHLY_TOKENS', quota.spent, quota.terms.month, settings, quota, refused),
    ...crossingsOf(id, 'MESSAGES_PER_DAY', quota.today, quota.terms.day, settings, quota, refused),
  ].filter(({ memory }) => !known.has(memory))
  if (reached.length === 0) return

  // From now on, so that a reading that comes meanwhile has nothing to do.
  for (const { memory } of reached) remember(known, memory)
  try {
    const tenant = await owner.db.tenant.findFirst({ select: { name: true } })
    if (tenant)
      await notifyAdmins(
        owner,
        reached.map((crossing) => noticeOf(crossing, tenant.name, settings.timeZone)),
      )
  } catch (error) {
    for (const { memory } of reached) known.delete(memory)
    // Without the database, or while the tenant is being moved, there is nothing to be done but to wait for the next reading.
    if (!isOutage(error) && !isFenced(error)) owner.ports.report(error)
  }
}

function crossingsOf(
  tenantId: string,
  limit: WatchedLimit,
  counted: number,
  period: Period,
  { quotaThresholds }: ThresholdSettings,
  { terms }: QuotaReading,
  refused: QuotaLimit | null,
): Crossing[] {
  const max = terms.limits[limit]
  const share = refused === limit ? Math.max(counted, max) : counted
  return quotaThresholds
    .filter((threshold) => share * 100 >= max * threshold)
    .toSorted((one, other) => one - other)
    .map((threshold) => ({
      ...{ limit, threshold, used: counted, max, period },
      memory: `${tenantId}/${limit}/${period.start}/${threshold}`,
    }))
}

function remember(known: Set<string>, memory: string): void {
  known.add(memory)
  if (known.size <= mostRemembered) return
  for (const oldest of known) {
    known.delete(oldest)
    return
  }
}

const things: Record<WatchedLimit, { things: string; period: string }> = {
  MONTHLY_TOKENS: { things: 'tokens', period: 'month' },
  MESSAGES_PER_DAY: { things: 'messages', period: 'day' },
}

function noticeOf({ limit, threshold, used, max, period }: Crossing, tenantName: string, timeZone: string): Notice {
  const words = things[limit]
  const name = nameOf(limit, period, timeZone)
  const ends = new Date(period.end).toLocaleString('sv', { timeZone, dateStyle: 'short', timeStyle: 'short' })
  const of = `the ${words.period}'s ${words.things}`
  return {
    kind: 'QUOTA_THRESHOLD_REACHED',
    dedupeKey: `${limit}/${name}/${threshold}`,
    title: threshold >= 100 ? `${tenantName}: ${of} are used up` : `${tenantName}: ${threshold} % of ${of} are used`,
    body: `${tenantName} has used ${count(used)} of the ${count(max)} ${words.things} of ${name}. The next ${words.period} begins at ${ends} (${timeZone}).`,
    details: {
      ...{ limit, threshold, used, max, period: name },
      ...{ periodStart: new Date(period.start).toISOString(), periodEnd: new Date(period.end).toISOString() },
    },
  }
}

/**
 * The day or month as a calendar calls it, such as 2026-11. By its middle, so that it keeps its name when another time zone makes it
 * begin some hours earlier or later, and nothing is told of it twice.
 */
function nameOf(limit: WatchedLimit, { start, end }: Period, timeZone: string): string {
  const date = new Date((start + end) / 2).toLocaleDateString('sv', { timeZone })
  return limit === 'MONTHLY_TOKENS' ? date.slice(0, 7) : date
}

function count(number: number): string {
  return number.toLocaleString('en')
}
