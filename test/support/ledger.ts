import fc from 'fast-check'
import { newId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import type { TestDatabase } from './postgres.ts'
import { asAdmin } from './tenant-rows.ts'

/** A model call as it is entered into the ledger. */
export type LedgerCall = {
  at: number
  model: string
  inputTokens: number
  cachedInputTokens: number
  outputTokens: number
  costNanos: number
  estimated: boolean
  priceId?: string | null
  tenantPriceId?: string | null
}

/** Enters calls into the tenant's ledger, one by one, as the superuser. */
export function enterCalls(database: TestDatabase, { tenant }: Scope, calls: readonly LedgerCall[]): Promise<void> {
  return asAdmin(database, async (admin) => {
    for (const call of calls) {
      await admin.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model,
           input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at, price_id,
           tenant_price_id)
         values ($1, $2, $3, $4, $5, 1, 0, 0, 1, $6, $7, $8, $9, 0, $10, $11, 'USD', $12, $13, $14)`,
        [
          ...[newId(), tenant.id, newId(), newId(), tenant.defaultAgentId, call.model, call.inputTokens, call.cachedInputTokens],
          ...[call.outputTokens, call.estimated, call.costNanos, new Date(call.at), call.priceId ?? null],
          call.tenantPriceId ?? null,
        ],
      )
    }
  })
}

/** Calls between two moments, of a few models, in no order. */
export function ledgerCalls(from: number, to: number, most: number): fc.Arbitrary<LedgerCall[]> {
  const call = fc.record({
    at: fc.integer({ min: from, max: to - 1 }),
    model: fc.constantFrom('gpt-4o', 'gpt-4o-mini', 'local'),
    inputTokens: fc.integer({ min: 10, max: 100_000 }),
    cachedInputTokens: fc.nat(10),
    outputTokens: fc.nat(10_000),
    costNanos: fc.nat(1_000_000_000),
    estimated: fc.boolean(),
  })
  return fc.array(call, { maxLength: most })
}
