import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Conversation } from '../../src/data/generated/client.ts'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type Page, type PageArgs, paginate } from '../../src/domain/page.ts'
import { anyText } from '../support/arbitraries.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
})
afterAll(() => story.close())

type Direction = 'asc' | 'desc'

/** A list of its own on the real table: conversations of a user that nobody else uses, at the given times. */
async function listAt(times: number[], direction: Direction) {
  const { db, tenant } = acme.admin
  const userId = newId()
  const rows = times.map((time) => ({ id: newId(), createdAt: new Date(Date.UTC(2026, 0) + time) }))
  await db.conversation.createMany({
    data: rows.map((row) => ({ ...row, tenantId: tenant.id, userId, agentId: tenant.defaultAgentId ?? '' })),
  })
  const sign = direction === 'asc' ? 1 : -1
  rows.sort((a, b) => sign * (a.createdAt.getTime() - b.createdAt.getTime() || (a.id < b.id ? -1 : 1)))
  return {
    ids: rows.map(({ id }) => id),
    page: (args: PageArgs) =>
      paginate(args, { direction }, (where, orderBy, take) =>
        db.conversation.findMany({ where: { ...where, userId }, orderBy, take }),
      ),
  }
}

const idsOf = ({ edges }: Page<Conversation>) => edges.map(({ node }) => node.id)

// Three times for up to 25 rows, so that most times are equal.
const times = fc.array(fc.nat(2), { maxLength: 25 })
const directions = fc.constantFrom<Direction>('asc', 'desc')
const sizes = fc.integer({ min: 1, max: 10 })

describe('a walk', () => {
  test('forwards visits every row once, in order, and knows where it is', async () => {
    await fc.assert(
      fc.asyncProperty(times, directions, sizes, async (at, direction, first) => {
        const { ids, page } = await listAt(at, direction)
        const seen: string[] = []
        let after: string | null = null
        let more = true
        while (more) {
          const { edges, pageInfo }: Page<Conversation> = await page({ first, after })
          expect(pageInfo.hasPreviousPage).toBe(seen.length > 0)
          seen.push(...edges.map(({ node }) => node.id))
          expect(pageInfo.hasNextPage).toBe(seen.length < ids.length)
          expect(pageInfo.startCursor).toBe(edges[0]?.cursor ?? null)
          expect(pageInfo.endCursor).toBe(edges.at(-1)?.cursor ?? null)
          after = pageInfo.endCursor
          more = pageInfo.hasNextPage
        }
        expect(seen).toEqual(ids)
      }),
      { numRuns: 30 },
    )
  })

  test('backwards visits every row once, each page in the order of the list', async () => {
    await fc.assert(
      fc.asyncProperty(times, directions, sizes, async (at, direction, last) => {
        const { ids, page } = await listAt(at, direction)
        const seen: string[] = []
        let before: string | null = null
        let more = true
        while (more) {
          const { edges, pageInfo }: Page<Conversation> = await page({ last, before })
          expect(pageInfo.hasNextPage).toBe(seen.length > 0)
          seen.unshift(...edges.map(({ node }) => node.id))
          expect(pageInfo.hasPreviousPage).toBe(seen.length < ids.length)
          expect(pageInfo.startCursor).toBe(edges[0]?.cursor ?? null)
          expect(pageInfo.endCursor).toBe(edges.at(-1)?.cursor ?? null)
          before = pageInfo.startCursor
          more = pageInfo.hasPreviousPage
        }
        expect(seen).toEqual(ids)
      }),
      { numRuns: 30 },
    )
  })

  test('between two cursors sees only what lies between them', async () => {
    const { ids, page } = await listAt([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], 'desc')
    const { edges } = await page({})
    for (const [from, to] of [
      [0, 9],
      [2, 5],
      [4, 5],
      [6, 3],
    ] as const) {
      const after = edges[from]?.cursor
      const before = edges[to]?.cursor
      const between = ids.slice(from + 1, to)
      expect(idsOf(await page({ after, before }))).toEqual(between)
      expect(idsOf(await page({ first: 2, after, before }))).toEqual(between.slice(0, 2))
      expect(idsOf(await page({ last: 2, after, before }))).toEqual(between.slice(-2))
    }
  })

  test('goes on from a row that was deleted meanwhile', async () => {
    const { ids, page } = await listAt([0, 1, 1, 1, 2], 'asc')
    const { pageInfo } = await page({ first: 2 })
    await acme.admin.db.conversation.deleteMany({ where: { id: ids[1] } })
    expect(idsOf(await page({ first: 2, after: pageInfo.endCursor }))).toEqual(ids.slice(2, 4))
  })
})

describe('the arguments', () => {
  const never = async (): Promise<Conversation[]> => {
    throw new Error('The database was asked.')
  }
  const refused = (args: PageArgs) =>
    paginate(args, { direction: 'desc' }, never).then(
      () => expect.unreachable('It was accepted.'),
      (error) => {
        expect(error).toBeInstanceOf(ValidationProblem)
        return (error as ValidationProblem).path
      },
    )

  test('default to 20 rows; null is the same as absent', async () => {
    const { ids, page } = await listAt(Array<number>(25).fill(1), 'asc')
    expect(idsOf(await page({ first: null, last: null, after: null, before: null }))).toEqual(ids.slice(0, 20))
    expect(idsOf(await page({ first: 100 }))).toEqual(ids)
  })

  test('may ask for no rows, to learn whether there are any', async () => {
    const { page } = await listAt([1], 'asc')
    expect(await page({ first: 0 })).toEqual({
      edges: [],
      pageInfo: { hasNextPage: true, hasPreviousPage: false, startCursor: null, endCursor: null },
    })
  })

  test('refuse sizes out of bounds, and both sizes at once, by name', async () => {
    for (const size of [-1, 101, 1.5, Number.NaN]) {
      expect(await refused({ first: size })).toEqual(['first'])
      expect(await refused({ last: size })).toEqual(['last'])
    }
    expect(await refused({ first: 1, last: 1 })).toEqual(['last'])
  })

  test('refuse cursors that were never handed out, by name', async () => {
    const { page } = await listAt([1], 'asc')
    const cursor = (await page({})).edges[0]?.cursor ?? ''
    const tooLate = Buffer.from(cursor, 'base64url').fill(0xff, 0, 6).toString('base64url')
    for (const bad of ['', '0', `${cursor}=`, ` ${cursor}`, cursor.slice(1), `${cursor}AA`, tooLate, 'x'.repeat(1_000_000)]) {
      expect(await refused({ after: bad })).toEqual(['after'])
      expect(await refused({ before: bad })).toEqual(['before'])
    }
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        expect(await refused({ after: text })).toEqual(['after'])
      }),
    )
  })

  test('accept any cursor that looks like one, and the database does too', async () => {
    const { page } = await listAt([1, 1], 'asc')
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 22, maxLength: 22 }), async (bytes) => {
        const cursor = Buffer.from(bytes).fill(0, 0, 1).toString('base64url')
        expect((await page({ first: 1, after: cursor })).edges.length).toBeLessThanOrEqual(1)
      }),
      { numRuns: 50 },
    )
  })
})
