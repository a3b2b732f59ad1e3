import type { QuotaLimit } from '../data/generated/enums.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { type Admission, type Limits, type QuotaCounts, type QuotaTerms, type Unseeded, windowSpan } from './admission.ts'
import { Unavailable } from './errors.ts'
import type { TenantId } from './ids.ts'
import type { Ports } from './ports.ts'
import { dayIn, monthIn } from './time-zone.ts'

/** What Postgres says of a tenant's limits. It is about all of the tenant, whoever's request it serves. */
export type QuotaSource = {
  /** The terms at `now`, the time of the counters' clock in milliseconds. */
  terms(now: number): Promise<QuotaTerms>
  /** What there is to count under these terms, as of one moment. */
  counts(terms: QuotaTerms, now: number): Promise<QuotaCounts>
}

/** Whose limits they are. Answers with terms older than `limitsVersion` do not count. */
export type QuotaOwner = {
  tenant: { id: TenantId; limitsVersion: number }
  quotaSource: QuotaSource
  ports: Pick<Ports, 'admission'>
}

/** Reads the tenant's rows by `db`, which must see them all: as the staff does, not as an end user. */
export function quotaSourceOf(db: TenantDb, tenantId: TenantId): QuotaSource {
  return { terms: (now) => readTerms(db, tenantId, now), counts: (terms, now) => readCounts(db, tenantId, terms, now) }
}

/** Often enough for counters that others change meanwhile. */
const mostRounds = 10

/**
 * What the counters answer to `ask`, which is given the version that their terms must have at least. When they lack the terms or
 * the counts for an answer, these are read from Postgres first. Throws Unavailable as Admission does.
 */
export async function seeded<T extends { outcome: string }>(
  owner: QuotaOwner,
  ask: (version: number) => Promise<T | Unseeded>,
): Promise<Exclude<T, Unseeded>> {
  for (let round = 0; round < mostRounds; round++) {
    const answer = await ask(owner.tenant.limitsVersion)
    if (answer.outcome !== 'unseeded') return answer as Exclude<T, Unseeded>
    await shareSeed(owner, answer as Unseeded)
  }
  throw new Unavailable(untold, 1)
}

const underWay = new WeakMap<Admission, Map<TenantId, Promise<void>>>()

/** One at a time for each tenant of a process: a crowd that comes after a loss of the counters waits for one look at the ledger. */
async function shareSeed(owner: QuotaOwner, asked: Unseeded): Promise<void> {
  const { admission } = owner.ports
  const seeds = underWay.get(admission) ?? new Map<TenantId, Promise<void>>()
  underWay.set(admission, seeds)
  const { id } = owner.tenant
  const shared = seeds.get(id)
  if (shared) return shared
  const seed = seedOnce(owner, asked).finally(() => seeds.delete(id))
  seeds.set(id, seed)
  return seed
}

async function seedOnce({ tenant, quotaSource, ports }: QuotaOwner, { need, now, mark }: Unseeded): Promise<void> {
  const terms = await quotaSource.terms(now)
  const counts = need === 'counts' ? await quotaSource.counts(terms, now) : null
  await ports.admission.seed(tenant.id, mark, terms, counts)
}

type TermsRow = {
  version: number
  timeZone: string
  limits: Limits
  overrides: { limit: QuotaLimit; max: number; expiresAt: number | null }[]
}

async function readTerms(db: TenantDb, tenantId: TenantId, now: number): Promise<QuotaTerms> {
  // One statement, so that the version is that of these limits. No limit exceeds 2^53: see `mostOf` in quota-override.ts.
  const [row] = await db.$queryRaw<TermsRow[]>`
    select t.limits_version as version, t.time_zone as "timeZone",
      json_build_object('MESSAGES_PER_MINUTE', p.messages_per_minute, 'MESSAGES_PER_DAY', p.messages_per_day,
        'TOKENS_PER_MESSAGE', p.tokens_per_message, 'CONCURRENT_SESSIONS', p.concurrent_sessions,
        'MONTHLY_TOKENS', p.monthly_tokens) as limits,
      (select coalesce(json_agg(json_build_object('limit', o."limit", 'max', o.max,
          'expiresAt', (extract(epoch from o.expires_at) * 1000)::int8)), '[]')
        from quota_overrides o where o.tenant_id = ${tenantId}::uuid) as overrides
    from tenants t join plans p on p.plan = t.plan where t.id = ${tenantId}::uuid`
  if (!row) throw new Unavailable(untold, 1)
  const { version, timeZone, limits } = row
  const overrides = row.overrides.filter(({ expiresAt }) => expiresAt === null || expiresAt > now)
  const ends = overrides.flatMap(({ expiresAt }) => expiresAt ?? [])
  return {
    version,
    limits: { ...limits, ...Object.fromEntries(overrides.map(({ limit, max }) => [limit, max])) },
    validUntil: ends.length > 0 ? Math.min(...ends) : null,
    day: dayIn(timeZone, now),
    month: monthIn(timeZone, now),
  }
}

type CountsRow = Omit<QuotaCounts, 'calls'> & { calls: { id: string; tokens: number }[] }

async function readCounts(db: TenantDb, tenantId: TenantId, { day, month }: QuotaTerms, now: number): Promise<QuotaCounts> {
  // One statement, so that a call is either among the unfinished or in the ledger. A message is counted by its run.
  const [row] = await db.$queryRaw<CountsRow[]>`
    select
      (select coalesce(json_agg((extract(epoch from created_at) * 1000)::int8), '[]') from runs
        where tenant_id = ${tenantId}::uuid and created_at > ${new Date(now - windowSpan)}::timestamptz) as recent,
      (select count(*)::int from runs
        where tenant_id = ${tenantId}::uuid and created_at >= ${new Date(day.start)}::timestamptz) as today,
      (select coalesce(sum(input_tokens::bigint + output_tokens), 0)::float8 from usage_records where tenant_id = ${tenantId}::uuid
        and created_at >= ${new Date(month.start)}::timestamptz and created_at < ${new Date(month.end)}::timestamptz) as spent,
      (select coalesce(json_agg(json_build_object('id', run_id || '/' || turn || '/' || attempt, 'tokens', input_tokens + output_bound)), '[]')
        from model_call_attempts where tenant_id = ${tenantId}::uuid) as calls,
      (select coalesce(json_agg(id), '[]') from runs
        where tenant_id = ${tenantId}::uuid and finished_at is null and status in ('QUEUED', 'RUNNING')) as sessions`
  if (!row) throw new Unavailable(untold, 1)
  return row as QuotaCounts
}

const untold = 'What you may use cannot be told right now.'
