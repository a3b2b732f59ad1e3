import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Prisma } from '../../src/data/generated/client.ts'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { userModels } from '../../src/data/tenant-filter.ts'
import type { TenantDb } from '../../src/data/tenant-scope.ts'
import { everyCase } from '../support/sample.ts'
import { type Case, casesOf } from './cases.ts'
import { freshRows, type Party, pick, rowOf, tenantParty, userParty } from './rows.ts'
import { type PartyTag, tableTags } from './tags.ts'
import { type CaseGroup, groupedByRelation } from './touched.ts'
import { tried as note } from './tried.ts'
import { delegates, openWorld, operate, type StoredRow, type Walls, type World } from './world.ts'

/** What only row-level security can stop, left out where it is off. */
const rowLevelSecurityOnly = ['raw SQL']

const tenants = () => ({ own: tenantParty('Own'), other: tenantParty('Other') })
const users = () => {
  const tenant = tenantParty('Shared')
  return { own: userParty(tenant, 'ann'), other: userParty(tenant, 'bob'), shared: [tenant] }
}
export const pairs: { between: string; tag: PartyTag; make: () => Between }[] = [
  { between: 'two tenants', tag: 'two-tenants', make: tenants },
  { between: 'two end users of one tenant', tag: 'two-users', make: users },
]

/**
 * The tests of what stands when only `walls` do. Each case is tried in two worlds that differ in one thing: whether the other
 * party exists. What it answers, and what is stored afterwards, must be the same in both, but for the other's rows, which must be
 * as they were. A wall that lets anything through, be it a row, a count or another error, makes them differ.
 */
export function standing(walls: Walls): void {
  for (const { between, tag, make } of pairs) {
    describe(`between ${between}`, { tags: [tag] }, () => casesBetween(walls, make()))
  }

  describe('between two end users of one tenant', { tags: ['two-users'] }, () => {
    const { own, other, shared } = users()
    const pair = openPair(walls, own, other, shared)

    // A foreign key carries the tenant and not the user, so the row itself can be made.
    for (const model of ['Message', 'Run']) {
      const above = Object.entries(dataModel[model]?.relations ?? {}).filter(
        (entry) => !entry[1].list && userModels.has(entry[1].model),
      )
      const tags = tableTags([model, ...above.map(([, relation]) => relation.model)])
      it(`a ${model} below what is the other’s shows nothing of that`, { tags }, async () => {
        const keys = above.flatMap(([, { from }]) => from)
        const data = { ...freshRows(own)[model], ...pick(rowOf(other, model), keys) }
        for (const [name] of above) {
          const read = async (db: TenantDb) => {
            await operate(delegates(db), model, 'createMany', { data, skipDuplicates: true })
            return operate(delegates(db), model, 'findMany', { include: { [name]: true } })
          }
          expect(await pair.answer(read)).not.toContain(other.canary)
        }
      })
    }
  })
}

type Between = { own: Party; other: Party; shared?: Party[] }

function casesBetween(walls: Walls, { own, other, shared = [] }: Between): void {
  const pair = openPair(walls, own, other, shared)

  for (const { cases, ...group } of casesBehind(walls, own, other)) {
    it(`${titleOf(group)} shows and changes nothing of the other`, { tags: tableTags(group.models) }, async ({ task }) => {
      // Every third case goes through a transaction, where connection and client are others.
      const attempts = cases.map(({ aim, writes, ...attempt }, index) => {
        const act = index % 3 === 1 ? inTransaction(tried(attempt)) : tried(attempt)
        return () => pair.differences(writes, aim, act)
      })
      const differences = []
      while (attempts.length > 0) {
        const together = attempts.splice(0, atOnce(cases[0] as Case))
        differences.push(...(await Promise.all(together.map((attempt) => attempt()))).flat())
      }
      note(task, { cases: cases.length, leaks: differences.length })
      expect(differences).toEqual([])
    })
  }

  it.skipIf(!walls.rowLevelSecurity && rowLevelSecurityOnly.includes('raw SQL'))('raw SQL does neither', async ({ task }) => {
    const differences = []
    const cases = rawCases(pair.tables())
    for (const { aim, act } of cases) differences.push(...(await pair.differences(true, aim, act)))
    note(task, { cases: cases.length, leaks: differences.length })
    expect(differences).toEqual([])
  })
}

/** How many cases of a kind can be tried at once: a write is alone, and so is a look-up, of which Prisma would make one query. */
function atOnce({ writes, operation }: Case): number {
  return writes || operation.startsWith('findUnique') ? 1 : 4
}

/**
 * What is tried behind these walls. What neither of them shows alone, both do not show; but writes lean on more than the walls, on keys
 * and on grants: behind both, one of each kind is tried, and with `EVERY_CASE` set, all.
 */
function casesBehind(walls: Walls, own: Party, other: Party): CaseGroup[] {
  const all = casesOf(own, other)
  if (!(walls.filter && walls.rowLevelSecurity)) return groupedByRelation(all)
  const groups = groupedByRelation(all.filter(({ writes }) => writes))
  const oneOf = (cases: Case[], index: number) => cases.slice(index % cases.length).slice(0, 1)
  return everyCase ? groups : groups.map((group, index) => ({ ...group, cases: oneOf(group.cases, index) }))
}

type Act = (db: TenantDb) => Promise<unknown>

/** The world with the other party and the one without, opened before the suite around it and closed after. */
export function openPair(walls: Walls, own: Party, other: Party, shared: Party[]) {
  let together: World
  let alone: World
  beforeAll(async () => {
    together = await openWorld(walls, [...shared, own, other])
    alone = await openWorld(walls, [...shared, own])
    // What touches no row leaves the two as they are: alike.
    expect(canonical(parted([...together.beginning.values()].flat(), other)[1])).toBe(
      canonical([...alone.beginning.values()].flat()),
    )
  })
  afterAll(async () => {
    await together.close()
    await alone.close()
  })
  return {
    tables: () => together.tables,
    answer: (act: Act) => outcome(together.data.of(own.wall), act),
    /** What `act` could tell of the other party, and what it did to it. */
    async differences(writes: boolean, aim: string, act: Act): Promise<object[]> {
      const [there, without] = await Promise.all([together, alone].map(({ data }) => outcome(data.of(own.wall), act)))
      const found: object[] = there === without ? [] : [{ aim, there, without }]
      if (!writes) return found
      const [after, unaffected] = await Promise.all([together.takeStock(), alone.takeStock()])
      for (const table of new Set([...after.keys(), ...unaffected.keys()])) {
        const before = together.beginning.get(table) ?? []
        const [theirs, rest] = parted(after.get(table) ?? before, other)
        const changed = canonical(theirs) !== canonical(parted(before, other)[0])
        const told = canonical(rest) !== canonical(unaffected.get(table) ?? alone.beginning.get(table))
        if (changed || told) found.push({ aim, theirs, rest })
      }
      return found
    },
  }
}

/** The other party's rows, and the rest. */
function parted(rows: StoredRow[], { wall, canary }: Party): [StoredRow[], StoredRow[]] {
  const isTheirs = ({ table, row }: StoredRow) =>
    wall.userId === null ? row[table === 'tenants' ? 'id' : 'tenant_id'] === wall.tenantId : row['user_id'] === canary
  return [rows.filter(isTheirs), rows.filter((each) => !isTheirs(each))]
}

/** What the party learns: the answer, or the error with all that it says. */
async function outcome(db: TenantDb, act: Act): Promise<string> {
  try {
    return canonical(await act(db))
  } catch (error) {
    return canonical({ error: String(error), ...(error as object) })
  }
}

/** The value as text. Lists are sorted: no order was asked for. */
function canonical(value: unknown): string {
  return (
    JSON.stringify(value, (_, part) => {
      if (typeof part === 'bigint') return String(part)
      return Array.isArray(part) ? part.map(canonical).toSorted() : part
    }) ?? 'nothing'
  )
}

export function tried({ model, operation, args }: Pick<Case, 'model' | 'operation' | 'args'>): Act {
  return (db) => operate(delegates(db), model, operation, args)
}

function inTransaction(act: Act): Act {
  return (db) => db.$transaction((tx) => act(tx as TenantDb))
}

function titleOf({ model, operation, through }: Omit<CaseGroup, 'cases'>): string {
  return `${operation} of ${model}${through}`
}

function rawCases(tables: string[]): { aim: string; act: Act }[] {
  return tables.flatMap((table) => [
    { aim: `select from ${table}`, act: (db) => db.$queryRaw`select to_jsonb(t) from ${Prisma.raw(table)} t` },
    { aim: `count ${table}`, act: (db) => db.$queryRaw`select count(*)::int from ${Prisma.raw(table)}` },
    { aim: `delete from ${table}`, act: (db) => db.$executeRaw`delete from ${Prisma.raw(table)}` },
  ])
}
