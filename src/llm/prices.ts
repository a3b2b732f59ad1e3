import { everyModel, larger, type TokenPrice } from '../domain/pricing.ts'

/** A model's first price, from `validFrom` on, for good. */
type SeedPrice = TokenPrice & { model: string; currency: string; validFrom: Date }

/** Before any usage this platform records, so that the first version covers all of it. */
const validFrom = new Date('2025-01-01T00:00:00Z')

/** What the demo upstream's model costs. It costs nothing to run: the price is made up, so that a demonstration has figures to show. */
const demoPrice = priced('bulkhead-demo', 1, 0.1, 4)

/**
 * The price list a new platform starts with: OpenAI's models, at the standard tier, of long prompts where those are dearer. With
 * `ceiling` also what every other model is charged at, the dearest of these; without it, other models are refused.
 *
 * Source: the data of the package @pydantic/genai-prices, in dollars per million tokens, which × 1,000 are nano-dollars per token.
 * Fractions of one are rounded up. Cached input that has no price of its own costs what other input does.
 */
export async function seedPrices({ ceiling }: { ceiling: boolean }): Promise<SeedPrice[]> {
  const { findProvider } = await import('@pydantic/genai-prices')
  const provider = findProvider({ providerId: 'openai' })
  if (!provider) throw new Error('The price data has no OpenAI.')
  const listed = provider.models.flatMap(({ id, prices }) => {
    const current = Array.isArray(prices) ? prices.at(-1)?.prices : prices
    const [input, output] = [dearest(current?.['input_mtok']), dearest(current?.['output_mtok'])]
    // What takes or makes anything but text costs more than its text.
    if (input === null || output === null || Object.keys(current ?? {}).some((name) => /audio|image|video/.test(name))) return []
    // Some charge more for the input that they then have cached.
    const written = Math.max(input, dearest(current?.['cache_write_mtok']) ?? 0)
    return priced(id, written, dearest(current?.['cache_read_mtok']) ?? input, output)
  })
  return [...listed, demoPrice, ...(ceiling ? [ceilingOf(listed)] : [])]
}

type PackagePrice = number | { base: number; tiers: { price: number }[] } | undefined

function dearest(price: PackagePrice): number | null {
  if (price === undefined) return null
  return typeof price === 'number' ? price : Math.max(price.base, ...price.tiers.map((tier) => tier.price))
}

function ceilingOf(prices: readonly SeedPrice[]): SeedPrice {
  const most = (rate: keyof TokenPrice) => prices.map((price) => price[rate]).reduce(larger)
  const rates = { inputNanos: most('inputNanos'), cachedInputNanos: most('cachedInputNanos'), outputNanos: most('outputNanos') }
  return { model: everyModel, currency: 'USD', ...rates, validFrom }
}

/** Dollars per million tokens. */
function priced(model: string, input: number, cachedInput: number, output: number): SeedPrice {
  const rates = { inputNanos: nanos(input), cachedInputNanos: nanos(cachedInput), outputNanos: nanos(output) }
  return { model, currency: 'USD', ...rates, validFrom }
}

function nanos(dollars: number): bigint {
  // 0.07 × 1,000 is 70.00000000000001.
  return BigInt(Math.ceil(Number((dollars * 1_000).toFixed(6))))
}
