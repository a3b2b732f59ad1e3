// @module-tag edge-floods
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MemorySignals } from '../../src/memory/signals.ts'
import { createServer, type Server } from '../../src/server/server.ts'

let server: Server
let url: string
/** How often somebody's credentials were looked up, which is the first thing that reads the database. */
let lookups = 0

beforeAll(async () => {
  server = createServer({
    authenticate: async () => {
      lookups += 1
      return null
    },
    signals: new MemorySignals({ onError: () => undefined }),
    logger: pino({ level: 'silent' }),
    development: true,
    isReady: async () => true,
  })
  url = (await server.listen(0, '127.0.0.1')).url
})

afterAll(() => server.close(1_000))

async function ask(query: string): Promise<string | undefined> {
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer x' },
    body: JSON.stringify({ query }),
  })
  const { errors } = (await response.json()) as { errors: { message: string; extensions: { code: string } }[] }
  return `${errors[0]?.extensions.code}: ${errors[0]?.message}`
}

const times = (count: number, part: (index: number) => string) =>
  Array.from({ length: count }, (_, index) => part(index)).join(' ')
const nested = (levels: number): string =>
  levels === 0 ? 'id' : `messages { edges { node { run { conversation { ${nested(levels - 1)} } } } } }`

describe('a flood', () => {
  it.each([
    ['depth', `{ conversation(id: "x") { ${nested(3)} } }`, /17 levels deep; the limit is 12/],
    ['aliases at the root', `{ ${times(21, (i) => `a${i}: viewer { role }`)} }`, /21 root fields; the limit is 20/],
    ['aliases', `{ viewer { ${times(500, (i) => `a${i}: role`)} } }`, /501 fields; the limit is 500/],
    [
      'pages in pages',
      '{ conversations(first: 100) { edges { node { runs(first: 100) { edges { node { id status model createdAt startedAt finishedAt configVersion usage { inputTokens } } } } } } } }',
      /asks for up to 110301 fields/,
    ],
    ['tokens', `{ ${times(1_000, () => 'viewer { role }')} }`, /more than 2000 tokens/],
    ['directives', `{ viewer { role ${times(1_000, () => '@skip(if: false)')} } }`, /more than 2000 tokens/],
    [
      'fragments in circles',
      '{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }',
      /Cannot spread fragment "A" within itself/,
    ],
    [
      'fragments that double',
      `{ ...F0 } ${times(40, (i) => `fragment F${i} on Query { ...F${i + 1} ...F${i + 1} }`)} fragment F40 on Query { viewer { role } }`,
      /fields; the limit is 500/,
    ],
    [
      'introspection',
      `{ __schema { types { ${'fields { type { '.repeat(4)} name ${'} }'.repeat(4)} } } }`,
      /Maximum introspection depth exceeded/,
    ],
  ])('of %s is refused before anything is looked up', async (_what, query, message) => {
    const before = lookups
    const answer = await ask(query)
    expect(answer).toMatch(/^BAD_USER_INPUT: /)
    expect(answer).toMatch(message)
    expect(lookups).toBe(before)
  })

  it('is not what a frontend asks for', async () => {
    expect(
      await ask('{ conversations(first: 50) { edges { node { id title messages(last: 50) { edges { node { content } } } } } } }'),
    ).toMatch(/^UNAUTHENTICATED/)
    expect(lookups).toBeGreaterThan(0)
  })
})
