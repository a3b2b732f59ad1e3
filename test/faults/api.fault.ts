import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { longest, rounds } from '../support/kills.ts'
import type { Actor } from '../support/stage.ts'
import { type FaultStage, openStage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

const streams = 200

/** How long an instance is silent, in milliseconds. */
const silence = 6_000

describe('an API instance under 200 streams', () => {
  it.for([
    ['killed', 'api: kill -9 under 200 streams', kill],
    ['paused', 'api: SIGSTOP for 6 s under 200 streams', pause],
  ] as const)(
    'may be %s, and its clients go on elsewhere',
    { timeout: longest * rounds },
    async ([_, fault, happens], { task }) => {
      for (let round = 0; round < rounds; round++) {
        await using stage = await openStage({ apis: 2, workers: 2, env: { BULKHEAD_RUN_CONCURRENCY: String(streams) } })
        await using witness = new Witness(stage)
        const [first, second] = stage.apis as [Actor, Actor]
        await witness.stream(streams, (index) => ({ words: 70 - Math.floor(index / 5), delayMs: 200 }))
        witness.startProbing()
        await happens(stage, witness, round % 2 === 0 ? first : second)
        const verdict = await witness.judge()
        tried(task, fault, 1, verdict)
        expect(verdict.findings).toEqual([])
        expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
      }
    },
  )
})

async function kill(stage: FaultStage, _witness: Witness, victim: Actor): Promise<void> {
  await stage.kill(victim)
  await delay(1_000)
  await stage.startApi({ port: Number(new URL(victim.url).port) })
}

async function pause(_stage: FaultStage, witness: Witness, victim: Actor): Promise<void> {
  await witness.whilePaused(victim.url, async () => {
    victim.process.signal('SIGSTOP')
    await delay(silence)
    victim.process.signal('SIGCONT')
  })
}
