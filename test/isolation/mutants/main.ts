import { availableParallelism } from 'node:os'
import { dataModel } from '../../../src/data/generated/data-model.ts'
import { startTestServer } from '../../support/global-setup.ts'
import { sampleSettings } from '../../support/sample.ts'
import { tenantParty } from '../rows.ts'
import { tableOf, wallTags } from '../tags.ts'
import { databaseMutants } from './database-mutants.ts'
import { isEquivalent } from './equivalents.ts'
import { filterMutants } from './filter-mutants.ts'
import { Lane } from './lane.ts'
import { type Mutant, sample } from './mutant.ts'
import { Score } from './score.ts'

// `npm run test:mutants`: takes away, one by one, everything that keeps tenants apart, and fails unless a test notices each time.
const { size, seed } = sampleSettings()
const { close, ...server } = await startTestServer()
try {
  const all = [...(await databaseMutants(server.adminUrl)), ...(await filterMutants())]
  const mutants = sample(all, size, seed)
  const score = new Score(mutants.length)
  score.say(
    mutants.length < all.length
      ? `${mutants.length} of ${all.length} mutants; the same again with SEED=${seed}`
      : `${all.length} mutants`,
  )
  const lanes = await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, () => Lane.open(server)))
  const waiting = [...mutants]
  try {
    await expectGreen(lanes)
    await Promise.all(lanes.map((lane) => work(lane, waiting, score)))
  } finally {
    await Promise.all(lanes.map((lane) => lane.close()))
  }
  score.end()
} finally {
  await close()
}

/** A test that fails anyhow would kill every mutant: behind each wall, those of the table of the fewest relations must pass. */
async function expectGreen(lanes: Lane[]): Promise<void> {
  const relations = (model: string) => Object.keys(dataModel[model]?.relations ?? {}).length
  const [model = ''] = Object.keys(tenantParty('').rows).toSorted((a, b) => relations(a) - relations(b))
  const waiting = [...wallTags]
  const check = async (lane: Lane) => {
    for (let wall = waiting.shift(); wall; wall = waiting.shift()) {
      const failing = await lane.failing(wall, { table: tableOf.get(model) ?? null })
      if (failing !== null) throw new Error(`${failing} fails without any mutant. Make npm test pass first.`)
    }
  }
  await Promise.all(lanes.map(check))
}

async function work(lane: Lane, waiting: Mutant[], score: Score): Promise<void> {
  for (let mutant = waiting.shift(); mutant; mutant = waiting.shift()) {
    const startedAt = performance.now()
    // What no test can see is tried by the strictest.
    const witnesses = mutant.witnesses.slice(0, isEquivalent(mutant) ? 1 : undefined)
    score.add(mutant, await lane.try({ ...mutant, witnesses }), (performance.now() - startedAt) / 1000)
  }
}
