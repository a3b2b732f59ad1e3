import { setTimeout as delay } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import type { RunQueue } from '../../src/domain/ports.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { platformKeys } from '../../src/redis/key-space.ts'
import { longest, rounds } from '../support/kills.ts'
import { ask, follow, shownAfter, startWorker } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
import { startStory } from '../support/story.ts'
import { selectRows } from '../support/tenant-rows.ts'
import { openStage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

it('every wake-up may be delivered again and again', { timeout: longest * rounds }, async ({ task }) => {
  await using stage = await openStage({ workers: 2 })
  const [tenant] = await selectRows(stage.database, "select id from tenants where name = 'acme'")
  const connection = new Redis(stage.redis?.url ?? '', { maxRetriesPerRequest: null })
  const queue = new Queue('runs', { prefix: platformKeys.wakeUps.prefix, connection, skipVersionCheck: true })
  try {
    for (let round = 0; round < rounds; round++) {
      await using witness = new Witness(stage)
      await witness.stream(4)
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

it('every wake-up may be delivered twice at the same moment, where there is one process', { timeout: longest }, async ({
  task,
}) => {
  const story = await startStory()
  const { member } = await story.tenant()
  const model = scriptedModel([says('Once.')])
  const queue = new MemoryRunQueue({ onError: () => undefined })
  let copies = 0
  const runQueue: RunQueue = {
    // Each run waits for its wake-ups.
    reserve: () => null,
    wake: (tenantId) => queue.wake(tenantId),
    consume: (take, concurrency) =>
      queue.consume(async (tenantId) => {
        copies += 1
        const both = (await Promise.all([take(tenantId), take(tenantId)])).filter((taken) => taken !== null)
        const [first] = both
        return first ? { ...first, ended: Promise.all(both.map(({ ended }) => ended)).then(() => undefined) } : null
      }, concurrency),
  }
  try {
    await using _ = await startWorker(story, { model, ports: { ...story.ports, runQueue } })
    const asking = { ...member, ports: { ...member.ports, runQueue } }
    const sent: Awaited<ReturnType<typeof ask>>[] = []
    // No more at once than there are connections for, so that none is refused for want of one.
    while (sent.length < 40) sent.push(...(await Promise.all(Array.from({ length: 8 }, () => ask(asking, 'Question')))))
    const texts = await Promise.all(sent.map(async ({ run }) => shownAfter(await follow(member, run.id))))
    const usage = await member.db.usageRecord.count({ where: { runId: { in: sent.map(({ run }) => run.id) } } })
    const lost = texts.filter((text) => text === '').length
    const gaps = texts.filter((text) => text !== '' && text !== 'Once.').length
    const doubled = Math.max(model.requests.length, usage) - sent.length
    const counts = { runs: sent.length, lost, doubled, gaps, longestPause: 0, slowestAnswer: 0, findings: [] }
    tried(task, 'wake-ups: each delivered twice at once, in one process', copies, counts)
    expect({ lost, gaps, calls: model.requests.length, usage }).toEqual({ lost: 0, gaps: 0, calls: 40, usage: 40 })
  } finally {
    await story.close()
  }
})
