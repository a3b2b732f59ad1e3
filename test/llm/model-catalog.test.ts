import * as published from 'gpt-tokenizer/models'
import { describe, expect, test } from 'vitest'
import { profileOf } from '../../src/llm/model-catalog.ts'
import { seedPrices } from '../../src/llm/prices.ts'

type Published = { context_window?: number; max_input_tokens?: number; reasoning_tokens?: boolean }

describe('the catalogue', () => {
  test.each([
    'gpt-4o',
    'gpt-4o-mini',
    'gpt-4.1',
    'gpt-4.1-mini',
    'gpt-4.1-nano',
    'gpt-5',
    'gpt-5-mini',
    'gpt-5-nano',
    'o3',
    'o4-mini',
  ])('says of %s what its maker says', (model) => {
    const spec = (published as unknown as Record<string, Published>)[model]
    const { contextWindow, reasoning } = profileOf(model)
    expect(contextWindow).toBe(Math.min(spec?.context_window ?? 0, spec?.max_input_tokens ?? Number.POSITIVE_INFINITY))
    expect(reasoning).toBe(spec?.reasoning_tokens)
  })

  test('takes a dated snapshot for its model', () => {
    expect(profileOf('gpt-4o-2024-11-20')).toEqual(profileOf('gpt-4o'))
    expect(profileOf('o4-mini-2025-04-16')).toEqual(profileOf('o4-mini'))
  })

  test('is cautious about models it does not know', () => {
    expect(profileOf('mystery-7b')).toEqual({ contextWindow: 8192, reasoning: false, outputBound: 'max_tokens' })
    expect(profileOf('gpt-oss-20b')).toEqual({ contextWindow: 8192, reasoning: false, outputBound: 'max_tokens' })
    expect(profileOf('gpt-9')).toEqual({ contextWindow: 8192, reasoning: false, outputBound: 'max_completion_tokens' })
  })
})

describe('the seed prices', async () => {
  const prices = await seedPrices({ ceiling: true })
  const ceiling = prices.find(({ model }) => model === '*')

  test('are one for each model, those that the catalogue knows included', () => {
    const models = prices.map((price) => price.model)
    expect(new Set(models).size).toBe(models.length)
    expect(models).toEqual(expect.arrayContaining(['gpt-4o', 'gpt-4o-mini', 'gpt-5', 'o3', 'o4-mini', 'bulkhead-demo']))
    expect(prices.find(({ model }) => model === 'gpt-4o-mini')).toMatchObject({
      ...{ inputNanos: 150n, cachedInputNanos: 75n, outputNanos: 600n, currency: 'USD' },
    })
  })

  test('are positive, and cached input is never dearer than other input', () => {
    for (const price of prices) {
      expect(price.cachedInputNanos, price.model).toBeGreaterThan(0n)
      expect(price.inputNanos, price.model).toBeGreaterThanOrEqual(price.cachedInputNanos)
    }
  })

  test('have a ceiling above all of them, where that is asked for', async () => {
    for (const rate of ['inputNanos', 'cachedInputNanos', 'outputNanos'] as const)
      for (const price of prices) expect(ceiling?.[rate], price.model).toBeGreaterThanOrEqual(price[rate])
    expect((await seedPrices({ ceiling: false })).map(({ model }) => model)).not.toContain('*')
  })
})
