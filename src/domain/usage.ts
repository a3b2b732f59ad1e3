import { Prisma } from '../data/generated/client.ts'
import type { UsageRecordWhereInput } from '../data/generated/models.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { CallId, SettledCall } from './admission.ts'
import { isUuid, newId } from './ids.ts'
import { type CallTerms, costNanos, defaultCurrency } from './pricing.ts'
import type { TokenUsage } from './run-event.ts'
import { type LedgerEntry, usageMessages } from './usage-feed.ts'

/** A model call as it is numbered: `turn` counts from 0, and `attempt` is the claim that made it. */
export type CallKey = { tenantId: string; runId: string; turn: number; attempt: number }

/** The call as the counters know it. */
export function callIdOf({ runId, turn, attempt }: Pick<CallKey, 'runId' | 'turn' | 'attempt'>): CallId {
  return `${runId}/${turn}/${attempt}`
}

/** What a run used so far, and what that costs in nano-units (10⁻⁹) of the currency. */
export type RunUsage = TokenUsage & { costNanos: bigint; currency: string }

/** A call that is to be entered: what it used, null for nothing, and what that is charged at. */
export type CallEntry = {
  key: CallKey
  usage: TokenUsage | null
  terms: Pick<CallTerms, 'rates' | 'currency'>
  entry: LedgerEntry
}

/** How many rows a statement with the parts of `enterCall` removed and entered: none, or one. */
export type EnteredRows = { made: number; entered: number }

/**
 * Enters a model call into the ledger, in the place of the attempt that was noted before it; of one that used nothing, nothing
 * is entered. Whoever removes the attempt enters the call, so repeating it changes nothing: when it is not known whether the first
 * time was committed, and when somebody else was faster. A claim makes at most one call per turn that uses anything. Whoever is to
 * hear of usage has a message in the outbox with it. Answers the call as the ledger has it.
 */
export async function recordUsage(tx: TenantTransaction, call: CallEntry): Promise<SettledCall> {
  const [rows] = await tx.$queryRaw<EnteredRows[]>`with ${enterCall(call)} ${enteredRows}`
  return settledCall(tx, call, rows)
}

/** SQL: the parts `made`, `entered` and `told` of a `with` that enter the call. Nothing is removed or entered without one. */
export function enterCall(call: CallEntry | null): Prisma.Sql {
  const none = Prisma.sql`entered as (select * from usage_records where false)`
  if (!call) return Prisma.sql`made as (select where false), ${none}`
  const { key, usage, terms, entry } = call
  const { tenantId, runId, turn, attempt } = key
  const made = Prisma.sql`
    made as (
      delete from model_call_attempts
      where tenant_id = ${tenantId}::uuid and run_id = ${runId}::uuid and turn = ${turn}::int and call = 0 and attempt = ${attempt}::int
      returning *)`
  if (!usage) return Prisma.sql`${made}, ${none}`
  return Prisma.sql`${made},
    entered as (
      insert into usage_records (id, tenant_id, conversation_id, run_id, user_pseudonym, agent_id, config_version, turn, call, attempt,
        model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id,
        tenant_price_id, created_at)
      select ${newId()}::uuid, tenant_id, conversation_id, run_id, user_pseudonym, agent_id, config_version, turn, call, attempt,
        model, ${usage.inputTokens}::int, ${usage.cachedInputTokens}::int, ${usage.outputTokens}::int, ${usage.reasoningTokens}::int,
        ${usage.estimated}::boolean, ${costNanos(usage, terms.rates)}::bigint, ${terms.currency}, price_id, tenant_price_id,
        ${new Date(entry.now)}::timestamptz
      from made
      on conflict do nothing
      returning *),
    ${usageMessages(tenantId, entry)}`
}

/** SQL: the `EnteredRows` of the statement's `enterCall`. */
export const enteredRows = Prisma.sql`select (select count(*)::int from made) as made, (select count(*)::int from entered) as entered`

/** The call as the ledger has it, once the statement has entered it or found that somebody else did. */
export async function settledCall(
  tx: TenantTransaction,
  { key, usage, entry: { now } }: CallEntry,
  rows: EnteredRows | undefined,
): Promise<SettledCall> {
  const settled = { id: callIdOf(key), at: now, isOurs: true }
  if (usage && rows?.entered) return { ...settled, tokens: usage.inputTokens + usage.outputTokens }
  if (!usage && rows?.made) return { ...settled, tokens: 0 }
  return readEntered(tx, key, now)
}

/** A call that somebody else entered, or this one before; one without tokens, as of `now`, when nobody did. */
async function readEntered(tx: TenantTransaction, { runId, turn, attempt }: CallKey, now: number): Promise<SettledCall> {
  const row = await tx.usageRecord.findFirst({ where: { runId, turn, attempt, call: 0, correction: 0 } })
  const [tokens, at] = row ? [row.inputTokens + row.outputTokens, row.createdAt.getTime()] : [0, now]
  return { id: callIdOf({ runId, turn, attempt }), tokens, at, isOurs: false }
}

/** The sums over each run's model calls, from the ledger: zero for a run without any. */
export async function sumUsage(
  db: TenantTransaction,
  runIds: readonly string[],
  filter: UsageRecordWhereInput = {},
): Promise<Map<string, RunUsage>> {
  const groups = await db.usageRecord.groupBy({
    by: ['runId', 'currency', 'estimated'],
    where: { ...filter, runId: { in: runIds.filter(isUuid) } },
    _sum: { inputTokens: true, cachedInputTokens: true, outputTokens: true, reasoningTokens: true, costNanos: true },
  })
  const sums = new Map(runIds.map((runId) => [runId, { ...nothing }]))
  for (const { runId, currency, estimated, _sum } of groups) {
    const sum = sums.get(runId) ?? { ...nothing }
    sum.inputTokens += _sum.inputTokens ?? 0
    sum.cachedInputTokens += _sum.cachedInputTokens ?? 0
    sum.outputTokens += _sum.outputTokens ?? 0
    sum.reasoningTokens += _sum.reasoningTokens ?? 0
    sum.costNanos += _sum.costNanos ?? 0n
    sum.estimated ||= estimated
    sum.currency = currency
    sums.set(runId, sum)
  }
  return sums
}

/** What each conversation cost so far, in nano-units, from the ledger: zero for one without any call. */
export async function sumCosts(
  db: TenantTransaction,
  conversationIds: readonly string[],
  filter: UsageRecordWhereInput = {},
): Promise<Map<string, bigint>> {
  const groups = await db.usageRecord.groupBy({
    by: ['conversationId'],
    where: { ...filter, conversationId: { in: conversationIds.filter(isUuid) } },
    _sum: { costNanos: true },
  })
  const costs = new Map(conversationIds.map((id) => [id, 0n]))
  for (const { conversationId, _sum } of groups) costs.set(conversationId, _sum.costNanos ?? 0n)
  return costs
}

const nothing: RunUsage = {
  inputTokens: 0,
  cachedInputTokens: 0,
  outputTokens: 0,
  reasoningTokens: 0,
  estimated: false,
  costNanos: 0n,
  currency: defaultCurrency,
}

/** The tokens without the cost, as events tell them. */
export function tokensOf({ costNanos: _cost, currency: _currency, ...tokens }: RunUsage): TokenUsage {
  return tokens
}
