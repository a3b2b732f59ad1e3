import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { longest, rounds } from '../support/kills.ts'
import { startRedisCluster } from '../support/redis-cluster.ts'
import type { RedisServer } from '../support/redis-server.ts'
import { type FaultStage, openStage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

/** How long each fault lasts, in milliseconds. */
const outage = 4_000

const faults: [string, (redis: RedisServer, admin: Redis) => Promise<void>][] = [
  [
    'redis: killed, empty again after 4 s',
    async (redis) => {
      await redis.stop()
      await delay(outage)
      await redis.restart()
    },
  ],
  [
    'redis: SIGSTOP for 4 s',
    async (redis) => {
      redis.pause()
      await delay(outage)
      redis.resume()
    },
  ],
  [
    'redis: FLUSHALL, four times in 4 s',
    async (_redis, admin) => {
      for (let times = 0; times < 4; times++) {
        await admin.flushall()
        await delay(outage / 4)
      }
    },
  ],
  [
    'redis: read-only for 4 s',
    async (redis, admin) => {
      // A replica of a master that is not there keeps what it has and takes nothing.
      await admin.config('SET', 'replica-serve-stale-data', 'yes')
      await admin.replicaof('127.0.0.1', redis.port === 1 ? 2 : 1)
      await delay(outage)
      await admin.replicaof('NO', 'ONE')
    },
  ],
]

describe('Redis', () => {
  let stage: FaultStage
  beforeAll(async () => {
    stage = await openStage()
  }, longest)
  afterAll(() => stage[Symbol.asyncDispose]())

  it.for(faults)('may fail: %s', { timeout: longest * rounds }, async ([fault, happens], { task }) => {
    const redis = stage.redis as RedisServer
    const admin = new Redis(redis.url).on('error', () => undefined)
    try {
      for (let round = 0; round < rounds; round++) {
        await using witness = new Witness(stage)
        const recovery = await suffer(witness, () => happens(redis, admin))
        const verdict = await witness.judge()
        tried(task, fault, 1, verdict, recovery)
        expect(verdict.findings).toEqual([])
        expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
      }
    } finally {
      admin.disconnect()
    }
  })
})

describe('Redis Cluster', () => {
  it('may lose a master', { timeout: longest * rounds }, async ({ task }) => {
    for (let round = 0; round < rounds; round++) {
      const cluster = await startRedisCluster({ nodeTimeout: 1_500 })
      try {
        await using stage = await openStage({ env: { REDIS_URL: cluster.urls.join(), REDIS_MODE: 'cluster' } })
        await using witness = new Witness(stage)
        const recovery = await suffer(witness, async () => {
          const keys = (await Promise.all(cluster.nodes.map(({ client }) => client.keys('{r:*}:s')))).flat()
          const master = await cluster.masterOf(keys[0] ?? '')
          await master.stop()
          await cluster.settled(master)
        })
        const verdict = await witness.judge()
        tried(task, 'redis cluster: a master killed', 1, verdict, recovery)
        expect(verdict.findings).toEqual([])
        expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
      } finally {
        await cluster.stop()
      }
    }
  })
})

/** Has answers under way before, during and after the fault. Answers how long after it a message took to be answered, in milliseconds. */
async function suffer(witness: Witness, fault: () => Promise<void>): Promise<number> {
  await witness.stream(10, (index) => ({ words: 20 + 6 * index, delayMs: 100 }))
  witness.startProbing()
  const failing = fault()
  await delay(500)
  const during = witness.askAll(6, () => ({ words: 10 }))
  await failing
  const over = performance.now()
  const last = await witness.ask({ words: 2, delayMs: 5 })
  await last.done
  const recovery = performance.now() - over
  await during
  return recovery
}
