import { Prisma } from '../data/generated/client.ts'
import type { Principal } from './authenticate.ts'
import { Forbidden, ValidationProblem } from './errors.ts'
import type { TenantId } from './ids.ts'
import { checkRange, type Ledger, ledgerOf } from './ledger.ts'
import { type DateRange, ledgerRows, ledgerSums } from './ledger-sums.ts'
import { defaultCurrency } from './pricing.ts'

/** By what a tenant's usage is told apart. Versions of configurations are told apart by agent as well. */
export const usageDimensions = ['HOUR', 'DAY', 'MODEL', 'CONVERSATION', 'USER', 'CONFIG_VERSION'] as const

export type UsageDimension = (typeof usageDimensions)[number]

/** Sums over model calls, each attempt a call, corrections included. `costNanos` is in nano-units (10⁻⁹) of the currency. */
export type UsageTotal = {
  calls: bigint
  inputTokens: bigint
  cachedInputTokens: bigint
  outputTokens: bigint
  reasoningTokens: bigint
  costNanos: bigint
  currency: string
  /** Whether the model reported nothing for at least one of the calls, so that its tokens were counted here. */
  estimated: boolean
}

/** What of the dimensions was asked for; the others are null. */
export type UsageRow = UsageTotal & {
  /** The beginning of the hour. */
  hour: Date | null
  /** The day as a calendar has it, such as 2026-11-29. */
  day: string | null
  model: string | null
  conversationId: string | null
  /** Null also for the tenant's staff, and for users who were erased. */
  userId: string | null
  agentId: string | null
  configVersion: number | null
}

export type UsageReport = { total: UsageTotal; rows: UsageRow[] }

export type UsageQuery = { range: DateRange; groupBy: readonly UsageDimension[]; tenantId?: string | null }

/** The most rows of a report. */
const mostRows = 10_000

/**
 * What a tenant's model calls used and cost, from the ledger, oldest first, and their total. Staff read that of their own tenant,
 * operators that of any they name, by time and model: users, conversations and agents are the tenant's own business. Hours and days are
 * those of the tenant's time zone. Throws a ValidationProblem for a range that is empty, backwards or longer than a year, and when there would be more
 * than 10,000 rows; NotFound for a tenant that is not there, is erased, or is another's.
 */
export async function reportUsage(principal: Principal, query: UsageQuery): Promise<UsageReport> {
  checkRange(query.range, ['range', 'to'])
  if (principal.kind === 'operator' && query.groupBy.some((dimension) => !operatorDimensions.has(dimension)))
    throw new Forbidden('Operators see usage by time and model alone.')
  const ledger = await ledgerOf(principal, query.tenantId)
  const rows = await afterOthersOf(ledger.tenantId, () => groupUsage(ledger, query))
  if (rows.length > mostRows) {
    const advice = 'Ask for a shorter range, or by fewer dimensions.'
    throw new ValidationProblem(['groupBy'], `The report would have more than ${mostRows.toLocaleString('en')} rows. ${advice}`)
  }
  return { total: totalOf(rows), rows: query.groupBy.length === 0 ? [] : rows }
}

/** The last report of each tenant that has one under way in this process. */
const underWay = new Map<TenantId, Promise<unknown>>()

/** One report of a tenant at a time: a long one takes seconds of a connection, of which no tenant may take all. */
async function afterOthersOf<T>(tenantId: TenantId, report: () => Promise<T>): Promise<T> {
  const mine = (underWay.get(tenantId) ?? Promise.resolve()).then(report)
  const ended = mine.catch(() => undefined)
  underWay.set(tenantId, ended)
  try {
    return await mine
  } finally {
    if (underWay.get(tenantId) === ended) underWay.delete(tenantId)
  }
}

const operatorDimensions: ReadonlySet<UsageDimension> = new Set(['HOUR', 'DAY', 'MODEL'])

/** What is not told apart in the sums: the ledger itself is read for it. */
const inTheLedgerAlone: ReadonlySet<UsageDimension> = new Set(['CONVERSATION', 'USER'])

/** One row more than a report may have, at most. The platform charges in one currency. */
function groupUsage({ db, tenantId }: Ledger, { range, groupBy }: UsageQuery): Promise<UsageRow[]> {
  const by = (dimension: UsageDimension) => groupBy.includes(dimension)
  const isInSums = !groupBy.some((dimension) => inTheLedgerAlone.has(dimension))
  const calls = isInSums
    ? Prisma.sql`select s.*, null::uuid as conversation_id, null::uuid as user_pseudonym from (${ledgerSums(tenantId, range)}) s`
    : ledgerRows(tenantId, range)
  return db.$queryRaw<UsageRow[]>`
    select
      case when ${by('HOUR')}::boolean then date_trunc('hour', u.at, t.time_zone) end as hour,
      case when ${by('DAY')}::boolean then to_char(u.at at time zone t.time_zone, 'YYYY-MM-DD') end as day,
      case when ${by('MODEL')}::boolean then u.model end as model,
      case when ${by('CONVERSATION')}::boolean then u.conversation_id end as "conversationId",
      case when ${by('USER')}::boolean then p.user_id end as "userId",
      case when ${by('CONFIG_VERSION')}::boolean then u.agent_id end as "agentId",
      case when ${by('CONFIG_VERSION')}::boolean then u.config_version end as "configVersion",
      u.currency, sum(u.calls)::bigint as calls,
      sum(u.input_tokens)::bigint as "inputTokens", sum(u.cached_input_tokens)::bigint as "cachedInputTokens",
      sum(u.output_tokens)::bigint as "outputTokens", sum(u.reasoning_tokens)::bigint as "reasoningTokens",
      sum(u.cost_nanos)::bigint as "costNanos", bool_or(u.estimated) as estimated
    from tenants t
    cross join (${calls}) u
    left join user_pseudonyms p on ${by('USER')}::boolean and p.tenant_id = t.id and p.id = u.user_pseudonym
    where t.id = ${tenantId}::uuid
    group by 1, 2, 3, 4, 5, 6, 7, 8
    order by 1, 2, 3, 4, 5, 6, 7, 8
    limit ${mostRows + 1}`
}

function totalOf(rows: readonly UsageTotal[]): UsageTotal {
  const sum = (field: 'calls' | 'inputTokens' | 'cachedInputTokens' | 'outputTokens' | 'reasoningTokens' | 'costNanos') =>
    rows.reduce((total, row) => total + row[field], 0n)
  return {
    ...{ calls: sum('calls'), inputTokens: sum('inputTokens'), cachedInputTokens: sum('cachedInputTokens') },
    ...{ outputTokens: sum('outputTokens'), reasoningTokens: sum('reasoningTokens'), costNanos: sum('costNanos') },
    currency: rows[0]?.currency ?? defaultCurrency,
    estimated: rows.some(({ estimated }) => estimated),
  }
}
