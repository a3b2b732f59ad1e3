import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { cleanJson, cleanText } from '../../src/domain/text.ts'
import { anyText } from '../support/arbitraries.ts'

function problemOf(work: () => unknown): ValidationProblem {
  try {
    work()
  } catch (error) {
    if (error instanceof ValidationProblem) return error
    throw error
  }
  throw new Error('It was accepted.')
}

describe('cleanText', () => {
  test('answers good text unchanged', () => {
    for (const text of ['a', ' a ', 'Grüße 🦆', 'עברית', 'e\u0301', '\u{1F468}\u200D\u{1F469}']) {
      expect(cleanText('title', text, { max: 100 })).toBe(text)
    }
  })

  test('names the field', () => {
    expect(problemOf(() => cleanText('title', '', { max: 10 }))).toMatchObject({ code: 'VALIDATION', path: ['title'] })
  })

  test.each(['', ' ', '\u00a0\u2003\ufeff'])('refuses the blank text %j, unless it may be empty', (text) => {
    problemOf(() => cleanText('title', text, { max: 100 }))
    expect(cleanText('title', text, { min: 0, max: 100 })).toBe(text)
  })

  test('bounds bytes, not characters', () => {
    expect(cleanText('title', '🦆🦆', { max: 8 })).toBe('🦆🦆')
    problemOf(() => cleanText('title', '🦆🦆', { max: 7 }))
    problemOf(() => cleanText('title', 'a'.repeat(1_000_000), { max: 999_999 }))
  })

  test('refuses every control character, but takes line breaks and tabs where there may be lines', () => {
    const controls = [...Array(32).keys(), ...Array.from({ length: 33 }, (_, index) => 127 + index)].map((code) =>
      String.fromCharCode(code),
    )
    for (const control of controls) {
      problemOf(() => cleanText('title', `a${control}b`, { max: 100 }))
      const text = `a${control}b`
      if ('\t\n\r'.includes(control)) expect(cleanText('content', text, { max: 100, multiline: true })).toBe(text)
      else problemOf(() => cleanText('content', text, { max: 100, multiline: true }))
    }
  })

  test('refuses half a surrogate pair', () => {
    for (const text of ['\ud83e', '\udd86', 'a\udd86\ud83e', '🦆\ud83e']) {
      problemOf(() => cleanText('content', text, { max: 100, multiline: true }))
    }
  })

  test('what it accepts survives UTF-8', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const accepted = Buffer.from(text).toString() === text && !/\p{Cc}/u.test(text) && text.trim() !== ''
        if (accepted) expect(cleanText('title', text, { max: 1000 })).toBe(text)
        else problemOf(() => cleanText('title', text, { max: 1000 }))
      }),
    )
  })
})

describe('cleanJson', () => {
  test('answers good JSON unchanged', () => {
    const value = { colour: '#f60', logo: { url: 'https://x.example/a.png', sizes: [16, 32, null] }, greeting: 'Hi\nthere' }
    expect(cleanJson('branding', value, { max: 1000 })).toEqual(value)
  })

  test('refuses what Postgres cannot store, in names and in values', () => {
    for (const value of [{ a: '\0' }, { '\0': 1 }, { a: [{ b: '\ud800' }] }, { '\udfff': 1 }]) {
      expect(problemOf(() => cleanJson('branding', value, { max: 1000 })).path).toEqual(['branding'])
    }
  })

  test('bounds bytes and nesting, however deep', () => {
    problemOf(() => cleanJson('branding', { a: 'x'.repeat(993) }, { max: 1000 }))
    let deep: Record<string, unknown> = {}
    for (let level = 0; level < 100_000; level++) deep = { deep }
    problemOf(() => cleanJson('branding', deep, { max: 1_000_000 }))
  })
})
