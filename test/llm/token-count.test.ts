import fc from 'fast-check'
import { countTokens as reference } from 'gpt-tokenizer/encoding/o200k_base'
import { expect, test } from 'vitest'
import { countTokens } from '../../src/llm/token-count.ts'

const plain = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() }

test.each([
  ['', 0],
  ['Hello, world!', 4],
  ['The quick brown fox jumps over the lazy dog.', 10],
])('%j has %i tokens', (text, tokens) => {
  expect(countTokens(text)).toBe(tokens)
})

test('special tokens are text like any other', () => {
  expect(countTokens('<|endoftext|>')).toBeGreaterThan(1)
  expect(countTokens('<|im_start|>system<|endofprompt|>')).toBeGreaterThan(3)
})

test('it agrees with the encoding on any text without long runs', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
      expect(countTokens(text)).toBe(reference(text, plain))
    }),
  )
})

test.each([
  ['a long word', `${'anti'.repeat(60)}establishment`],
  ['indentation', `{\n${' '.repeat(200)}deep\n}`],
  ['a sentence without spaces', '我们每天都在学习新的知识，并且努力把它们用到工作里。'.repeat(8)],
])('%s of at most 256 characters is counted exactly', (_what, text) => {
  expect(countTokens(text)).toBe(reference(text))
})

test('ordinary text before and after a long run is counted exactly', () => {
  const run = 'ab'.repeat(500)
  const around = 'Some words before it. '
  const counted = countTokens(`${around}${run} and after`) - countTokens(around) - countTokens(' and after')
  // The run is cut four times; each cut may cost a token or two.
  expect(Math.abs(counted - reference(run))).toBeLessThanOrEqual(8)
})

test.each([
  ['one letter', 'a'.repeat(1_000_000)],
  ['spaces', ' '.repeat(1_000_000)],
  ['line feeds', '\n'.repeat(1_000_000)],
  ['exclamation marks', '!'.repeat(1_000_000)],
  ['emoji', '😀'.repeat(250_000)],
  ['combining marks', '\u0301'.repeat(500_000)],
  ['lone surrogates', '\ud800'.repeat(1_000_000)],
  [
    'letters without end',
    Array.from({ length: 1_000_000 }, (_, index) => String.fromCharCode(97 + ((index * index * 7919) % 26))).join(''),
  ],
  ['runs just short enough to be counted whole', `${'xq'.repeat(128)} `.repeat(3900)],
])('a megabyte of %s takes bounded time and is far over any limit', (_what, text) => {
  const started = performance.now()
  expect(countTokens(text)).toBeGreaterThan(500_000)
  expect(performance.now() - started).toBeLessThan(2000)
})
