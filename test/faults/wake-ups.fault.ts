import { setTimeout as delay } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { platformKeys } from '../../src/redis/key-space.ts'
import { rounds } from '../support/kills.ts'
import { selectRows } from '../support/tenant-rows.ts'
import { Stage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

it('every wake-up may be delivered again and again', { timeout: 240_000 * rounds }, async ({ task }) => {
  await using stage = await Stage.open({ workers: 2 })
  const [tenant] = await selectRows(stage.database, "select id from tenants where name = 'acme'")
  const connection = new Redis(stage.redis?.url ?? '', { maxRetriesPerRequest: null })
  const queue = new Queue('runs', { prefix: platformKeys.wakeUps.prefix, connection, skipVersionCheck: true })
  try {
    for (let round = 0; round < rounds; round++) {
      await using witness = new Witness(stage)
      witness.startProbing()
      let copies = 0
      let storming = true
      const storm = (async () => {
        // Nothing keeps these from being served at the same time, by whichever worker.
        while (storming) {
          await queue.addBulk(
            Array.from({ length: 4 }, () => ({
              ...{ name: 'wake', data: { tenantId: tenant?.['id'] }, opts: { removeOnComplete: true, removeOnFail: true } },
            })),
          )
          copies += 4
          await delay(5)
        }
      })()
      const asked = await witness.askAll(40, (index) => ({ words: 5 + index, delayMs: 20 }))
      await Promise.all(asked.map(({ done }) => done))
      storming = false
      await storm
      const verdict = await witness.judge()
      tried(task, 'wake-ups: each delivered many times over, at two workers', copies, verdict)
      expect(verdict.findings).toEqual([])
      expect(copies).toBeGreaterThan(10 * asked.length)
      expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
      for (const { question } of asked) expect(stage.provider.callsFor(question), question).toHaveLength(1)
    }
  } finally {
    await queue.close()
    connection.disconnect()
  }
})
