import type { TokenPrice } from '../domain/pricing.ts'

/** A row of the price table: `validTo` is open, ids are made when it is stored, `(model, version)` is its identity. */
type SeedPrice = TokenPrice & { model: string; version: number; currency: string; validFrom: Date }

/** Before any usage this platform records, so that the first version covers all of it. */
const validFrom = new Date('2025-01-01T00:00:00Z')

/**
 * The prices a new platform starts with, in nano-USD per token. A change of price is a new version, never an edit.
 *
 * Source: the standard tier of https://platform.openai.com/docs/pricing, compared with the `openai.yml` of
 * github.com/pydantic/genai-prices as checked there between July and November 2025. Dollars per million tokens × 1,000.
 * `bulkhead-demo` costs nothing to run: its price is made up, so that a demonstration has figures to show.
 */
export const seedPrices: readonly SeedPrice[] = [
  priced('gpt-4o', 2500n, 1250n, 10_000n),
  priced('gpt-4o-mini', 150n, 75n, 600n),
  priced('gpt-4.1', 2000n, 500n, 8000n),
  priced('gpt-4.1-mini', 400n, 100n, 1600n),
  priced('gpt-4.1-nano', 100n, 25n, 400n),
  priced('gpt-5', 1250n, 125n, 10_000n),
  priced('gpt-5-mini', 250n, 25n, 2000n),
  priced('gpt-5-nano', 50n, 5n, 400n),
  priced('o3', 2000n, 500n, 8000n),
  priced('o4-mini', 1100n, 275n, 4400n),
  priced('bulkhead-demo', 1000n, 100n, 4000n),
]

function priced(model: string, inputNanos: bigint, cachedInputNanos: bigint, outputNanos: bigint): SeedPrice {
  return { model, version: 1, currency: 'USD', inputNanos, cachedInputNanos, outputNanos, validFrom }
}
