// @module-tag edge-floods
import { parse } from 'graphql'
import { describe, expect, it } from 'vitest'
import { sizeOf } from '../../src/server/query-size.ts'

const size = (query: string) => sizeOf(parse(query))

describe('the size of an operation', () => {
  it('counts levels, fields and aliases', () => {
    expect(size('{ a: viewer { role } b: viewer { role tenant { name } } }')).toEqual({
      depth: 3,
      fields: 6,
      cost: 6,
      rootFields: 2,
    })
  })

  it('counts what is under edges as often as the page is long', () => {
    const cost = (argument: string) => size(`{ runs${argument} { edges { node { id } } pageInfo { hasNextPage } } }`).cost
    // runs, pageInfo, hasNextPage, then edges, node and id for each of the page.
    expect(cost('(first: 10)')).toBe(3 + 10 * 3)
    expect(cost('(last: 1)')).toBe(3 + 3)
    expect(cost('')).toBe(3 + 20 * 3)
    expect(cost('(first: 1000000)')).toBe(3 + 100 * 3)
    expect(size('query ($n: Int) { runs(first: $n) { edges { cursor } } }').cost).toBe(1 + 100 * 2)
  })

  it('multiplies pages within pages, also when fragments hide them', () => {
    const direct = size('{ conversations(first: 10) { edges { node { messages(first: 5) { edges { cursor } } } } } }')
    const hidden = size(`
      { conversations(first: 10) { ...Page } }
      fragment Page on ConversationConnection { edges { node { messages(first: 5) { ... on MessageConnection { edges { cursor } } } } } }`)
    expect(direct.cost).toBe(1 + 10 * (2 + 1 + 5 * 2))
    expect(hidden).toEqual(direct)
  })

  it('is that of the largest operation, so that none hides behind another', () => {
    expect(size('query A { viewer { role } } query B { viewer { tenant { name } } }').depth).toBe(3)
  })

  it('survives fragments that spread themselves or are not there', () => {
    expect(size('{ ...A } fragment A on Query { viewer { role } ...B } fragment B on Query { ...A ...Missing }').depth).toBe(2)
  })

  it('is measured at once when fragments double 200 times over', () => {
    const doubling = Array.from({ length: 200 }, (_, i) => `fragment F${i} on Query { ...F${i + 1} ...F${i + 1} }`).join('\n')
    const { fields } = size(`{ ...F0 }\n${doubling}\nfragment F200 on Query { __typename }`)
    expect(fields).toBe(2 ** 200)
  })

  it('leaves introspection to its own rule', () => {
    expect(size('{ __schema { types { fields { type { name } } } } }')).toEqual({ depth: 1, fields: 1, cost: 1, rootFields: 1 })
  })
})
