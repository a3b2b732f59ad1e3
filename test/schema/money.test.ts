import { describe, expect, it } from 'vitest'
import { decimalOf, formatMoney, microsOf } from '../../src/schema/money.ts'

const usd = (nanos: bigint) => ({ nanos, currency: 'USD' })

describe('money', () => {
  it.each([
    [0n, 0n],
    [499n, 0n],
    [500n, 1n],
    [1_499n, 1n],
    [1_500n, 2n],
    [-499n, 0n],
    [-500n, -1n],
    [-1_500n, -2n],
    [1_234_567_890n, 1_234_568n],
    [9_007_199_254_740_993_000n, 9_007_199_254_740_993n],
  ])('of %s nano-units is %s micro-units', (nanos, micros) => {
    expect(microsOf(usd(nanos))).toBe(micros)
  })

  it.each([
    [0n, '$0.00'],
    [1_000n, '$0.000001'],
    [1_234_000n, '$0.001234'],
    [1_500_000_000n, '$1.50'],
    [-1_000n, '-$0.000001'],
    [-1_500_000_000n, '-$1.50'],
    [1_234_567_890_123_000n, '$1,234,567.890123'],
    [9_007_199_254_740_993_000n, '$9,007,199,254.740993'],
  ])('of %s nano-units reads %s', (nanos, text) => {
    expect(formatMoney(usd(nanos))).toBe(text)
  })
  it.each([
    [0n, '0.000000000'],
    [1n, '0.000000001'],
    [-1n, '-0.000000001'],
    [-1_234_567_890n, '-1.234567890'],
    [9_007_199_254_740_993_000n, '9007199254.740993000'],
  ])('of %s nano-units is %s units', (nanos, text) => {
    expect(decimalOf(nanos)).toBe(text)
  })
})
