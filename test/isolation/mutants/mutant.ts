import type { PartyTag, WallTag } from '../tags.ts'

/** One thing less that keeps tenants apart. */
export type Mutant = {
  /** What sort of thing is missing: a sample has some of each. */
  kind: string
  name: string
  /** The table whose tests must notice; null for what is of no table. */
  table: string | null
  change: { sql: string } | { filter: string }
  /** The walls behind which a test can see it, those that show it as a leak first. */
  witnesses: WallTag[]
  /** Between whom it stood; left out, whoever. */
  between?: PartyTag
}

const filesOf: Readonly<Record<WallTag, readonly string[]>> = {
  'both-walls': ['test/isolation/both-walls.test.ts'],
  'filter-alone': ['test/isolation/filter-alone.test.ts'],
  'policies-alone': ['test/isolation/policies-alone.test.ts'],
  postgres: ['test/isolation/tables.test.ts', 'test/data/walls.test.ts'],
  'filter-rules': ['test/isolation/filter.test.ts'],
}

/** Walls whose tests know between whom they stand. */
const partedWalls: ReadonlySet<WallTag> = new Set(['both-walls', 'filter-alone', 'policies-alone'])

/** The tests behind this wall that could notice the mutant. */
export function testsBehind(wall: WallTag, { table, between }: Pick<Mutant, 'table' | 'between'>) {
  const tags = [wall, table, partedWalls.has(wall) ? between : null]
  return { files: filesOf[wall], tagsFilter: tags.filter((tag) => tag != null).join(' and ') }
}

/** A sample of `size`, of each kind in turn. The same seed takes the same of the same mutants. */
export function sample(mutants: Mutant[], size: number, seed: number): Mutant[] {
  const random = randomFrom(seed)
  const shuffled = mutants.map((mutant) => ({ mutant, place: random() })).toSorted((a, b) => a.place - b.place)
  const kinds = [...Map.groupBy(shuffled, ({ mutant }) => mutant.kind).values()]
  const inTurn = kinds.flatMap((kind) => kind.map(({ mutant }, turn) => ({ mutant, turn }))).toSorted((a, b) => a.turn - b.turn)
  const chosen = new Set(inTurn.slice(0, size).map(({ mutant }) => mutant))
  return mutants.filter((mutant) => chosen.has(mutant))
}

/** Numbers from 0 to 1 that depend on the seed alone: Mulberry32, of Tommy Ettinger. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
