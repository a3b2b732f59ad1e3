import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { fakeClockAvailable, startFakeClock } from '../support/fake-clock.ts'
import { longest, rounds } from '../support/kills.ts'
import { openStage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

/** Where the clock jumps to, in seconds from the real time. */
const jumps = [3_600, -3_600, 0]

it.runIf(fakeClockAvailable).for(['api', 'worker'] as const)(
  'the clock of the only %s may jump an hour ahead, two back, and one ahead again',
  { timeout: longest * rounds },
  async (role, { task }) => {
    await using clock = await startFakeClock()
    await using stage = await openStage({ apis: 0, workers: 0 })
    await stage.startApi({ env: role === 'api' ? clock.env : {} })
    await stage.startWorker(role === 'worker' ? clock.env : {})
    const redis = new Redis(stage.redis?.url ?? '')
    try {
      for (let round = 0; round < rounds; round++) {
        await using witness = new Witness(stage)
        await witness.stream(4)
        witness.startProbing()
        for (const seconds of jumps) {
          await witness.stream(6, () => ({ words: 30, delayMs: 50 }))
          await clock.set(seconds)
          const asking = witness.askAll(6)
          await delay(300)
          // Without their wake-ups runs are found by how long they have been waiting, which the clock said.
          await redis.flushall()
          await asking
        }
        const verdict = await witness.judge()
        tried(task, `clock: that of the ${role} jumps by an hour, ahead and back`, jumps.length, verdict)
        expect(verdict.findings).toEqual([])
        expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
        expect(verdict.longestPause).toBeLessThan(witness.allow(15_000))
      }
    } finally {
      redis.disconnect()
    }
  },
)
