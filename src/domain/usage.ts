import type { Price, Run } from '../data/generated/client.ts'
import type { UsageRecordWhereInput } from '../data/generated/models.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { isUuid, newId } from './ids.ts'
import { costNanos } from './pricing.ts'
import type { TokenUsage } from './run-event.ts'
import { pseudonymOf } from './user-pseudonym.ts'

/** What one model call used. `turn` counts from 0. */
export type CallUsage = { turn: number; usage: TokenUsage }

/** What a run used so far, and what that costs in nano-units (10⁻⁹) of the currency. */
export type RunUsage = TokenUsage & { costNanos: bigint; currency: string }

/** What is said of runs without a model call, and of models without a price. */
const defaultCurrency = 'USD'

/** The price of the model's tokens at `now`; null when it has none. */
export async function priceAt(db: TenantTransaction, model: string, now: number): Promise<Price | null> {
  const at = new Date(now)
  return db.price.findFirst({
    where: { model, validFrom: { lte: at }, OR: [{ validTo: null }, { validTo: { gt: at } }] },
    orderBy: { version: 'desc' },
  })
}

/**
 * Enters a model call into the ledger. A claim makes at most one call per turn that uses anything, so its epoch numbers the
 * attempt. Entering it again, when it is not known whether the first time was committed, changes nothing.
 */
export async function recordUsage(
  tx: TenantTransaction,
  run: Run,
  { turn, usage }: CallUsage,
  price: Price | null,
  now: number,
): Promise<void> {
  const { tenantId, conversationId, userId, agentId, configVersion, model } = run
  const userPseudonym = await pseudonymOf(tx, tenantId, userId)
  await tx.usageRecord.createMany({
    data: {
      ...{ id: newId(), tenantId, conversationId, runId: run.id, userPseudonym, agentId, configVersion, model },
      ...{ turn, call: 0, attempt: run.epoch },
      ...usage,
      costNanos: price ? costNanos(usage, price) : 0n,
      currency: price?.currency ?? defaultCurrency,
      priceId: price?.id ?? null,
      createdAt: new Date(now),
    },
    skipDuplicates: true,
  })
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
