import fc from 'fast-check'
import { expect, test } from 'vitest'
import { costNanos } from '../../src/domain/pricing.ts'

const price = { inputNanos: 2500n, cachedInputNanos: 1250n, outputNanos: 10_000n }

test('each kind of token is charged at its own price', () => {
  // 600 × 2,500 + 400 × 1,250 + 200 × 10,000
  expect(costNanos({ inputTokens: 1000, cachedInputTokens: 400, outputTokens: 200 }, price)).toBe(4_000_000n)
})

test('a million tokens at a dollar a million cost exactly a dollar', () => {
  const oneDollar = { inputNanos: 1000n, cachedInputNanos: 0n, outputNanos: 0n }
  expect(costNanos({ inputTokens: 1_000_000, cachedInputTokens: 0, outputTokens: 0 }, oneDollar)).toBe(1_000_000_000n)
})

const tokens = fc.nat(2_147_483_647)
const nanos = fc.bigInt(0n, 10n ** 9n)
const anyUsage = fc
  .tuple(tokens, tokens, tokens)
  .map(([cached, fresh, outputTokens]) => ({ inputTokens: cached + fresh, cachedInputTokens: cached, outputTokens }))
const anyPrice = fc.record({ inputNanos: nanos, cachedInputNanos: nanos, outputNanos: nanos })

test('it is never negative and equals the sum of its parts, exactly', () => {
  fc.assert(
    fc.property(anyUsage, anyPrice, (usage, anyPrice) => {
      const cost = costNanos(usage, anyPrice)
      const fresh = BigInt(usage.inputTokens - usage.cachedInputTokens)
      const parts = [
        fresh * anyPrice.inputNanos,
        BigInt(usage.cachedInputTokens) * anyPrice.cachedInputNanos,
        BigInt(usage.outputTokens) * anyPrice.outputNanos,
      ]
      expect(cost).toBe(parts.reduce((sum, part) => sum + part))
      expect(cost >= 0n).toBe(true)
    }),
  )
})

test('two calls cost together what they cost apart, and more tokens never cost less', () => {
  fc.assert(
    fc.property(anyUsage, anyUsage, anyPrice, (one, other, anyPrice) => {
      const both = {
        inputTokens: one.inputTokens + other.inputTokens,
        cachedInputTokens: one.cachedInputTokens + other.cachedInputTokens,
        outputTokens: one.outputTokens + other.outputTokens,
      }
      expect(costNanos(both, anyPrice)).toBe(costNanos(one, anyPrice) + costNanos(other, anyPrice))
      expect(costNanos(both, anyPrice) >= costNanos(one, anyPrice)).toBe(true)
    }),
  )
})
