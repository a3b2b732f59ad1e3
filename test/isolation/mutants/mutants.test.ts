import { describe, expect, it } from 'vitest'
import { type Mutant, sample } from './mutant.ts'
import { inserted, sitesIn } from './source.ts'

const source = `
function restrictRead(model: string, args: Args, wall: Wall): Args {
  if (args['cursor'] !== undefined) throw new UnscopedOperation('(with a cursor')
  const key = 'a, (b'
  refuseOthers(args, key)
  return { ...args, where: restrictWhere(model, [args['where'], { key }], wall) }
}
function restrictWhere(
  model: string, where: unknown, wall: Wall,
): Args { return { where, ...wallOf(model, wall) } }
function wallOf(model: string, wall: Wall): Args {}
function refuseOthers(unknown: Args, what: string): void {}
const rules = {
  findMany: restrictRead,
}
`

describe('the filter’s source', () => {
  const without = (name: string) => {
    const site = sitesIn(source).find((each) => each.name.includes(name))
    if (!site) throw new Error(`No ${name} was found.`)
    return inserted(source, [site.skipped('off')])
  }

  it('has a site for each call of a filter, each refusal and each rule', () => {
    expect(sitesIn(source).map(({ name, model }) => `${name} of ${model}`)).toEqual([
      'restrictRead, line 5: refuseOthers(args, key) of model',
      "restrictRead, line 6: restrictWhere(model, [args['where'], { key }], wall) of model",
      'restrictWhere, line 10: wallOf(model, wall) of model',
      'findMany, line 14: restrictRead of model',
      "restrictRead, line 3: UnscopedOperation('(with a cursor') of model",
    ])
  })

  it('loses exactly one of them at a time', () => {
    expect(without(': restrictWhere')).toContain(
      "where: (off ? ([args['where'], { key }] ?? {}) : restrictWhere(model, [args['where'], { key }], wall)) }",
    )
    expect(without(': wallOf')).toContain('...(off ? {} : wallOf(model, wall)) }')
    expect(without(': refuseOthers')).toContain('\n  void (off ? undefined : refuseOthers(args, key))\n')
    expect(without('findMany')).toContain('findMany: (model, args, wall) => (off ? args : restrictRead(model, args, wall)),')
    expect(without('cursor')).toContain('undefined) if (!(off)) throw new UnscopedOperation')
  })
})

describe('a sample', () => {
  const mutants = ['policy', 'policy', 'policy', 'force', 'force', 'filter'].map(
    (kind, index): Mutant => ({ kind, name: String(index), table: null, change: { sql: '' }, witnesses: [] }),
  )

  it('has some of each kind, and the same ones under the same seed', () => {
    const kinds = sample(mutants, 3, 7).map(({ kind }) => kind)
    expect(kinds.toSorted()).toEqual(['filter', 'force', 'policy'])
    expect(sample(mutants, 4, 7)).toEqual(sample(mutants, 4, 7))
    const others = new Set(Array.from({ length: 20 }, (_, seed) => JSON.stringify(sample(mutants, 3, seed))))
    expect(others.size).toBeGreaterThan(1)
  })

  it('of any greater size is all of them', () => {
    expect(sample(mutants, Number.POSITIVE_INFINITY, 7)).toEqual(mutants)
  })
})
