import type { Plan, QuotaLimit } from '../data/generated/enums.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { bucketSpan, type Limits, type QuotaTerms, windowBuckets } from './admission.ts'
import type { OperatorScope } from './authenticate.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import type { TenantId } from './ids.ts'
import { checkRange } from './ledger.ts'
import { type DateRange, ledgerRows } from './ledger-sums.ts'
import { reserveOf } from './message-admission.ts'
import { defaultCurrency } from './pricing.ts'
import { residentOf } from './quota.ts'
import { refusalOf } from './quota-figures.ts'
import { dayIn, monthIn } from './time-zone.ts'

export type SimulatePlanQuery = { tenantId: string; plan: Plan; range: DateRange }

/** What would have become of the messages of a period under another plan, and what those that are left cost. */
export type PlanSimulation = {
  plan: Plan
  messages: number
  /** Those that would have been refused, by the limit that would have refused them. */
  refused: { limit: QuotaLimit; messages: number }[]
  /** Answers that the budget would have ended before they did. */
  cutShort: number
  /** Tokens and cost, in nano-units, of what would have been answered; those of an answer that is cut short by its share. */
  tokens: bigint
  costNanos: bigint
  /** The same as it was. */
  actualTokens: bigint
  actualCostNanos: bigint
  currency: string
}

/** A message as it was sent, with what its answer came to. Times in milliseconds; `endedAt` is null while it is not over. */
export type PastMessage = { at: number; endedAt: number | null; contentTokens: number; tokens: number; costNanos: bigint }

const mostMessages = 200_000

/**
 * Replays the messages of a period against the limits of another plan, in their order and with no other's: each is refused or counts as it
 * would have, with the tokens that its answer came to, which are spent when it is sent. Refusals that there were in fact are not
 * known, nor what people would have done next; days, months and minutes that began before the period begin empty. Overrides of the tenant
 * are left out. Throws NotFound, and a ValidationProblem for a range as `reportUsage` does, or of more than 200,000 messages. For operators.
 */
export async function simulatePlan(scope: OperatorScope, { tenantId, plan, range }: SimulatePlanQuery): Promise<PlanSimulation> {
  checkRange(range, ['range', 'to'])
  const { id } = (await residentOf(scope, tenantId)).owner.tenant
  const db = scope.data.of({ tenantId: id, userId: null })
  const [{ limits, timeZone }, messages] = await Promise.all([readPlan(db, id, plan), readMessages(db, id, range)])
  if (messages.length > mostMessages)
    throw new ValidationProblem(
      ['range'],
      `There are more than ${mostMessages.toLocaleString('en')} messages. Ask for a shorter range.`,
    )
  return { plan, currency: defaultCurrency, ...replay(messages, limits, timeZone) }
}

/** What these limits make of the messages, which are in the order in which they were sent. */
export function replay(
  messages: readonly PastMessage[],
  limits: Limits,
  timeZone: string,
): Omit<PlanSimulation, 'plan' | 'currency'> {
  const refused = new Map<QuotaLimit, number>()
  let terms: QuotaTerms | null = null
  let [window, bucket, today, spent, cutShort] = [emptyWindow(), 0, 0, 0, 0]
  let ends: number[] = []
  const sum = { tokens: 0n, costNanos: 0n, actualTokens: 0n, actualCostNanos: 0n }
  for (const { at, endedAt, contentTokens, tokens, costNanos } of messages) {
    sum.actualTokens += BigInt(tokens)
    sum.actualCostNanos += costNanos
    const before: QuotaTerms | null = terms
    if (!before || at >= before.day.end) {
      terms = { version: 0, limits, validUntil: null, day: dayIn(timeZone, at), month: monthIn(timeZone, at) }
      today = 0
      if (terms.month.start !== before?.month.start) spent = 0
    }
    const passed = Math.floor(at / bucketSpan) - bucket
    window = [...window.slice(passed), ...emptyWindow()].slice(0, windowBuckets)
    bucket += passed
    ends = ends.filter((end) => end > at)
    const figures = { now: at, terms: terms as QuotaTerms, bucket, window, today, sessions: ends.length, spent, reserved: 0 }
    const refusal = refusalOf(figures, { contentTokens, reserve: reserveOf(contentTokens) })
    if (refusal) {
      refused.set(refusal.limit, (refused.get(refusal.limit) ?? 0) + 1)
      continue
    }
    window[windowBuckets - 1] = (window[windowBuckets - 1] ?? 0) + 1
    today++
    if (endedAt !== null && endedAt > at) ends.push(endedAt)
    const answered = Math.min(tokens, limits.MONTHLY_TOKENS - spent)
    if (answered < tokens) cutShort++
    spent += answered
    sum.tokens += BigInt(answered)
    sum.costNanos += tokens === 0 ? costNanos : (costNanos * BigInt(answered)) / BigInt(tokens)
  }
  const byLimit = Array.from(refused, ([limit, messages]) => ({ limit, messages }))
  return { messages: messages.length, refused: byLimit, cutShort, ...sum }
}

function emptyWindow(): number[] {
  return Array<number>(windowBuckets).fill(0)
}

async function readPlan(db: TenantDb, tenantId: TenantId, plan: Plan): Promise<{ limits: Limits; timeZone: string }> {
  const [limits, tenant] = await Promise.all([
    db.planLimits.findFirst({ where: { plan } }),
    db.tenant.findFirst({ where: { id: tenantId }, select: { timeZone: true } }),
  ])
  if (!limits || !tenant) throw new NotFound('tenant')
  return {
    timeZone: tenant.timeZone,
    limits: {
      ...{ MESSAGES_PER_MINUTE: limits.messagesPerMinute, MESSAGES_PER_DAY: limits.messagesPerDay },
      ...{ TOKENS_PER_MESSAGE: limits.tokensPerMessage, CONCURRENT_SESSIONS: limits.concurrentSessions },
      MONTHLY_TOKENS: Number(limits.monthlyTokens),
    },
  }
}

/** One more than may be, at most. A message whose conversation was deleted is known by what its answer cost alone, which has no limit. */
async function readMessages(db: TenantDb, tenantId: TenantId, range: DateRange): Promise<PastMessage[]> {
  return db.$queryRaw<PastMessage[]>`
    with spent as (
      select run_id, sum(input_tokens::bigint + output_tokens)::float8 as tokens, sum(cost_nanos)::bigint as cost_nanos
      from (${ledgerRows(tenantId, range)}) u group by run_id)
    select extract(epoch from r.created_at)::float8 * 1000 as at, extract(epoch from r.finished_at)::float8 * 1000 as "endedAt",
      coalesce(m.tokens_used, 0) as "contentTokens", coalesce(s.tokens, 0) as tokens, coalesce(s.cost_nanos, 0) as "costNanos"
    from runs r
    left join messages m on m.tenant_id = ${tenantId}::uuid and m.run_id = r.id and m.role = 'USER'
    left join spent s on s.run_id = r.id
    where r.tenant_id = ${tenantId}::uuid and r.created_at >= ${range.from}::timestamptz and r.created_at < ${range.to}::timestamptz
    order by r.created_at, r.id
    limit ${mostMessages + 1}`
}
