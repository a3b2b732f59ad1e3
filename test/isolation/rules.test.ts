import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { rules } from './rules.ts'
import { taggedFiles } from './tagged-files.ts'

const tagged = taggedFiles()

describe('the rules', () => {
  it('are all there, 1 to 19', () => {
    const numbers = rules.map(({ name }) => Number(name)).filter(Number.isInteger)
    expect(numbers).toEqual(Array.from({ length: 19 }, (_, index) => index + 1))
  })

  it('each have a tag of their own', () => {
    expect(new Set(rules.map(({ tag }) => tag)).size).toBe(rules.length)
  })
})

describe.each(rules)('$tag: $title', ({ tag }) => {
  const files = tagged.get(tag) ?? []

  it('has a test', () => {
    expect(files).not.toEqual([])
  })

  it('is explained, with tests that prove it', () => {
    const text = readFileSync(join(import.meta.dirname, '../../docs/isolation.md'), 'utf8')
    const row = text.split('\n').find((line) => line.includes(`\`${tag}\``)) ?? 'no row'
    const named = [...row.matchAll(/`(test\/[^`]+)`/g)].map(([, file]) => file)
    expect(named).not.toEqual([])
    expect(named.filter((file = '') => !files.includes(file))).toEqual([])
  })
})
