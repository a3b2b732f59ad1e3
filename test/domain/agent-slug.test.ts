import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkSlug, freeSlug } from '../../src/domain/agent-slug.ts'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { anyText } from '../support/arbitraries.ts'

describe('a slug', () => {
  test.each(['a', '7', 'help-desk', 'a-1-b', 'x'.repeat(50)])('may be %s', (slug) => {
    expect(checkSlug(slug)).toBe(slug)
  })

  test.each(['', 'A', 'é', 'a b', 'a_b', '-a', 'a-', 'a--b', 'a\n', 'x'.repeat(51)])('may not be %j', (slug) => {
    expect(() => checkSlug(slug)).toThrow(ValidationProblem)
  })

  test.each([
    ['Help desk', [], 'help-desk'],
    ['  Größe & Über-Café!  ', [], 'gro-e-uber-cafe'],
    ['受付', [], 'agent'],
    ['Help desk', ['help-desk', 'help-desk-2'], 'help-desk-3'],
    ['x'.repeat(60), ['x'.repeat(50)], `${'x'.repeat(48)}-2`],
  ])('of %j, where %j are taken, is %s', (name, taken, slug) => {
    expect(freeSlug(name, new Set(taken))).toBe(slug)
  })

  test('is made of any name, proper and not taken', () => {
    fc.assert(
      fc.property(anyText, fc.nat({ max: 120 }), (name, others) => {
        const taken = new Set<string>()
        for (let count = 0; count <= others; count++) {
          const slug = checkSlug(freeSlug(name, taken))
          expect(taken.has(slug)).toBe(false)
          taken.add(slug)
        }
      }),
      { numRuns: 50 },
    )
  })
})
