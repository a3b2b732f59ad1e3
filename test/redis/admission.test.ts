import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Unavailable } from '../../src/domain/errors.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { RedisAdmission } from '../../src/redis/admission.ts'
import { nothing, roomy } from '../contract/admission-world.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'

const child = join(import.meta.dirname, '../support/admission-process.ts')

describe.skipIf(!redisAvailable)(redisSuite('admission by several processes'), () => {
  /** A Redis of the test's own with one tenant, by the clock of Redis. */
  async function start(limits: Partial<typeof roomy> = {}) {
    const redis = await startRedisServer()
    onTestFinished(() => redis.stop())
    const { connection } = await connectForTest(redis.target)
    const admission = new RedisAdmission(connection)
    const tenant = tenantIdOf(newId())
    const asked = await admission.read(tenant, 1)
    if (asked.outcome === 'read') throw new Error('Nobody has seeded it.')
    const period = { start: asked.now - 60_000, end: asked.now + 3_600_000 }
    const terms = { version: 1, limits: { ...roomy, ...limits }, validUntil: null, day: period, month: period }
    await admission.seed(tenant, asked.mark, terms, nothing)
    return { redis, connection, admission, tenant, asked }
  }

  test('shares one count: four of them admit as many messages as the limit says, and hold as many tokens as the budget has', async () => {
    const { redis, admission, tenant } = await start({
      MESSAGES_PER_MINUTE: 101,
      MONTHLY_TOKENS: 5_000,
      CONCURRENT_SESSIONS: 200,
    })
    const children = [1, 2, 3, 4].map(() => fork(child))
    /** What all of them answer to a message, together. Whoever holds tokens early must not keep others from being admitted. */
    const tell = async (message: object) => {
      const answers = children.map((each) => once(each, 'message'))
      for (const each of children) each.send(message)
      return (await Promise.all(answers)).reduce((total, [answer]) => total + answer, 0)
    }
    expect(await tell({ url: redis.url, tenant, messages: 80 })).toBe(101)
    expect(await tell({})).toBe(5_000)
    expect(await admission.read(tenant, 1)).toMatchObject({ quota: { minute: 101, today: 101, sessions: 101, reserved: 5_000 } })
  }, 60_000)

  test('goes by the clock of Redis', async () => {
    const { connection, admission, tenant, asked } = await start()
    const before = Number((await connection.commands.time())[0]) * 1_000
    expect(Math.abs(asked.now - before)).toBeLessThan(30_000)
    const { runId } = { runId: newId() }
    await admission.admit(tenant, { version: 1, runId, key: null, contentTokens: 1, reserve: 1 })
    const { quota } = (await admission.read(tenant, 1)) as { quota: { now: number; minuteResetAt: number } }
    expect(quota.minuteResetAt - quota.now).toBeLessThanOrEqual(65_000)
    expect(quota.now).toBeGreaterThanOrEqual(asked.now)
  })

  test('is one key of the tenant, which goes when nobody uses it', { tags: ['rule-13'] }, async () => {
    const { connection, admission, tenant } = await start()
    await admission.admit(tenant, { version: 1, runId: newId(), key: 'key', contentTokens: 1, reserve: 1 })
    expect(await connection.commands.keys('*')).toEqual([`{q:${tenant}}:w`])
    const ttl = await connection.commands.pttl(`{q:${tenant}}:w`)
    expect(ttl).toBeGreaterThan(23 * 3_600_000)
    expect(ttl).toBeLessThanOrEqual(24 * 3_600_000)
  })

  test('fails within a second while Redis is silent or gone, and is unseeded when it comes back empty', async () => {
    const { redis, admission, tenant } = await start()
    const calls = () => [
      admission.admit(tenant, { version: 1, runId: newId(), key: null, contentTokens: 1, reserve: 1 }),
      admission.hold(tenant, { version: 1, runId: newId(), call: 'run/1/1', tokens: 1, least: 1 }),
      admission.settle(tenant, { runId: newId(), calls: [], leave: 1 }),
      admission.renew(tenant, [{ runId: newId(), call: null }]),
      admission.read(tenant, 1),
      admission.release(tenant, { runId: newId(), key: null }),
      admission.count(tenant),
    ]
    for (const away of ['silent', 'gone']) {
      if (away === 'silent') redis.pause()
      else await redis.stop()
      const outcomes = await Promise.allSettled(calls())
      for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: expect.any(Unavailable) })
      if (away === 'silent') redis.resume()
    }
    await redis.restart()
    await expect.poll(() => admission.read(tenant, 1).catch(() => null), { timeout: 10_000 }).toMatchObject({ need: 'counts' })
  })
})
