import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { rounds } from '../support/kills.ts'
import { Stage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

/** Where Debian puts it, on both of its architectures that Node runs on. */
const library = ['x86_64', 'aarch64']
  .map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketimeMT.so.1`)
  .find((path) => existsSync(path))

const jumps = ['+3600', '-3600', '+0']

// In CI it always runs, and fails without the library.
const available = library !== undefined || process.env['CI'] === 'true'

it.runIf(available).for(['api', 'worker'] as const)(
  'the clock of the only %s jumps an hour ahead, two back and one ahead again',
  { timeout: 240_000 * rounds },
  async (role, { task }) => {
    const directory = await mkdtemp(join(tmpdir(), 'bulkhead-clock-'))
    const clock = join(directory, 'offset')
    await writeFile(clock, '+0')
    const env = {
      ...{ LD_PRELOAD: library ?? 'libfaketimeMT.so.1', FAKETIME_TIMESTAMP_FILE: clock, FAKETIME_NO_CACHE: '1' },
      // A wall clock that is set leaves the monotonic one alone.
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    }
    try {
      await using stage = await Stage.open({ apis: 0, workers: 0 })
      await Promise.all([stage.startApi({ env: role === 'api' ? env : {} }), stage.startWorker(role === 'worker' ? env : {})])
      const redis = new Redis(stage.redis?.url ?? '')
      for (let round = 0; round < rounds; round++) {
        await using witness = new Witness(stage)
        witness.startProbing()
        for (const jump of jumps) {
          await witness.stream(6, () => ({ words: 30, delayMs: 50 }))
          await writeFile(clock, jump)
          const asking = witness.askAll(6)
          // Whoever is late by the clock must not be late for want of a wake-up.
          await redis.flushall()
          await asking
          await delay(500)
        }
        const verdict = await witness.judge()
        tried(task, `clock: that of the ${role} jumps by an hour, ahead and back`, jumps.length, verdict)
        expect(verdict.findings).toEqual([])
        expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
        expect(verdict.longestPause).toBeLessThan(witness.allow(15_000))
      }
      redis.disconnect()
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  },
)
