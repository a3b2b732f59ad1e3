import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { decodeId } from '../../src/schema/global-id.ts'
import { kills, longest, rounds } from '../support/kills.ts'
import { selectRows } from '../support/tenant-rows.ts'
import { Holds } from './holds.ts'
import { after, callsTool, saysAll, saysNothing, saysPart } from './provider.ts'
import { type FaultStage, openStage } from './stage.ts'
import { tried } from './tried.ts'
import { type Testimony, Witness } from './witness.ts'

/** Answers that are under way at a time while workers die. */
const crowd = 24

const patience = { timeout: 60_000, interval: 50 }

describe('the death of a worker', () => {
  it(
    'at any moment and any byte loses nothing',
    async ({ task }) => {
      await using stage = await openStage({ workers: 5 })
      await using witness = new Witness(stage)
      await witness.stream(4)
      witness.startProbing()
      const askers = new Askers(witness, crowd, 40)
      for (let killed = 0; killed < kills && askers.areAsking; ) {
        await delay(200 + Math.random() * 800)
        const [victim] = stage.workers.toSorted(() => Math.random() - 0.5)
        if (!victim || stage.workers.length < 2) continue
        await stage.kill(victim)
        killed++
        void stage.startWorker()
        if (killed % 25 === 0)
          process.stderr.write(`${killed} of ${kills} workers killed, ${witness.testimonies.length} messages\n`)
      }
      await askers.stop()
      const verdict = await witness.judge()
      tried(task, 'worker: kill -9 at a random moment of 24 streams', kills, verdict)
      expect(verdict.findings).toEqual([])
      expect(verdict.runs).toBeGreaterThan(crowd)
      expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
    },
    longest + kills * 10_000,
  )

  it(
    'that is an API as well loses nothing, also of the runs that it began with their messages',
    async ({ task }) => {
      await using stage = await openStage({ apis: 0, workers: 0, both: 3 })
      await using witness = new Witness(stage)
      await witness.stream(4)
      witness.startProbing()
      const askers = new Askers(witness, crowd / 2, 20)
      const deaths = Math.ceil(kills / 5)
      for (let killed = 0; killed < deaths && askers.areAsking; killed++) {
        await delay(500 + Math.random() * 1_500)
        const [victim] = stage.workers.toSorted(() => Math.random() - 0.5)
        if (!victim) break
        await stage.kill(victim)
        await stage.startBoth({ port: Number(new URL(victim.url).port) })
      }
      await askers.stop()
      const verdict = await witness.judge()
      tried(task, 'worker and API in one: kill -9 at a random moment of 12 streams', deaths, verdict)
      expect(verdict.findings).toEqual([])
      expect(verdict.runs).toBeGreaterThan(crowd / 2)
    },
    longest + kills * 10_000,
  )

  it(
    'at each step of a run is made good within 15 seconds',
    async ({ task }) => {
      await using stage = await openStage({ workers: 0 })
      await using holds = await Holds.install(stage.database.adminUrl)
      const redis = new Redis(stage.redis?.url ?? '')
      try {
        for (let round = 0; round < rounds; round++) {
          await using witness = new Witness(stage)
          const recovery = await killAtEachStep(stage, witness, holds, redis)
          const verdict = await witness.judge()
          tried(task, 'worker: kill -9 at each of 9 steps of a run', 1, verdict, recovery)
          expect(verdict.findings).toEqual([])
          expect(recovery).toBeLessThan(witness.allow(15_000))
        }
      } finally {
        redis.disconnect()
      }
    },
    300_000 * rounds,
  )
})

/** So many who ask again when their answer, of up to so many words more than five, has ended. */
class Askers {
  areAsking = true
  readonly #done: Promise<unknown>

  constructor(witness: Witness, count: number, words: number) {
    const ask = async () => {
      while (this.areAsking) await (await witness.ask({ words: 5 + Math.floor(Math.random() * words), delayMs: 30 })).done
    }
    this.#done = Promise.all(Array.from({ length: count }, ask))
    this.#done.catch(() => {
      this.areAsking = false
    })
  }

  async stop(): Promise<void> {
    this.areAsking = false
    await this.#done
  }
}

/**
 * One worker has nine runs, each at another step: being claimed, about to call, calling, at three places of the answer, in its second
 * turn, about to store its end, committing it, and stored but not told. Then it is killed. Answers how long the last one took
 * from there to its end, in milliseconds.
 */
async function killAtEachStep(stage: FaultStage, witness: Witness, holds: Holds, redis: Redis): Promise<number> {
  const allAreThere = Promise.withResolvers<void>()
  const says = { words: 8, delayMs: 5 }
  const atTheEnd = after(allAreThere.promise, saysAll(says))
  const calling = await witness.ask({ ...says, scripts: [] })
  const silent = await witness.ask({ ...says, scripts: [saysNothing] })
  const partly = [await witness.ask({ ...says, scripts: [saysPart(0.15 + 0.2 * Math.random())] })]
  partly.push(await witness.ask({ ...says, scripts: [saysPart(0.4 + 0.5 * Math.random())] }))
  partly.push(await witness.ask({ ...says, scripts: [callsTool('current_time'), saysPart(0.2 + 0.6 * Math.random())] }))
  const ending = await witness.ask({ ...says, scripts: [atTheEnd] })
  const committing = await witness.ask({ ...says, scripts: [atTheEnd] })
  const untold = await witness.ask({ ...says, scripts: [atTheEnd] })
  const claiming = await witness.ask(says)
  await holds.hold('call', runOf(calling))
  await holds.hold('end', runOf(ending))
  await holds.hold('commit', runOf(committing))
  await holds.hold('claim', runOf(claiming))

  const doomed = await stage.startWorker()
  await expect.poll(() => holds.waiting(), patience).toBe(2)
  const called = [silent, ending, committing, untold]
  await expect.poll(() => called.every(({ question }) => stage.provider.callsFor(question).length === 1), patience).toBe(true)
  await expect.poll(() => partly.every(({ text }) => text !== ''), patience).toBe(true)
  // Somebody else has to be there, and finds nothing that it could do.
  const next = await stage.startWorker()
  await redis.call('CLIENT', 'PAUSE', '60000', 'WRITE')
  allAreThere.resolve()
  await expect.poll(() => holds.waiting(), patience).toBe(4)
  await expect.poll(() => statusOf(stage, untold), patience).toBe('COMPLETED')
  await stage.kill(doomed)
  const killedAt = performance.now()
  await redis.call('CLIENT', 'UNPAUSE')
  await holds.release()
  await Promise.all(witness.testimonies.map(({ done }) => done))
  const recovery = performance.now() - killedAt
  next.killed = true
  await next.process.stop()
  return recovery
}

function runOf({ runId }: Testimony): string {
  return decodeId('Run', runId) ?? ''
}

async function statusOf({ database }: FaultStage, testimony: Testimony): Promise<unknown> {
  const [row] = await selectRows(database, `select status from runs where id = '${runOf(testimony)}'`)
  return row?.['status']
}
