import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { RedisEventLog } from '../../src/redis/event-log.ts'
import { RedisRunQueue } from '../../src/redis/run-queue.ts'
import { followLog, newRun, writeAnswer } from '../support/log-streams.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisSentinel, startRedisSentinel } from '../support/redis-sentinel.ts'
import { redisAvailable, redisSuite } from '../support/redis-server.ts'

describe.skipIf(!redisAvailable)(redisSuite('behind Sentinel'), () => {
  let sentinel: RedisSentinel

  beforeAll(async () => {
    // With a comma, as a password may have one; the sentinels have another than the servers.
    sentinel = await startRedisSentinel({ password: 'a,b/c', sentinelPassword: 'watching' })
  }, 60_000)

  afterAll(() => sentinel?.stop())

  /** Writes and follows runs, each on connections of its own, while `fault` is done. */
  async function stream(count: number, fault: () => Promise<void>) {
    const [writer, reader] = [await connectForTest(sentinel.target), await connectForTest(sentinel.target)]
    const [log, other] = [new RedisEventLog(writer.connection), new RedisEventLog(reader.connection)]
    const runs = Array.from({ length: count }, newRun)
    const followers = await Promise.all(runs.map((run) => followLog(other, run)))
    const stopping = new AbortController()
    const writing = Promise.all(runs.map((run) => writeAnswer(log, run, { every: 20, signal: stopping.signal })))
    await delay(300)
    await fault()
    await vi.waitFor(() => Promise.all(runs.map((run) => log.read(run, null))), { timeout: 10_000 })
    await delay(1_000)
    stopping.abort()
    const written = await writing
    await Promise.all(followers.map(({ ended }) => ended))
    expect(followers.map(({ text }) => text)).toEqual(written.map(({ text }) => text))
    expect(await writer.connection.masters()[0]?.info('server')).toContain(`tcp_port:${await sentinel.masterPort()}`)
    return followers
  }

  test('a master that is told to make room: nothing is missed', async () => {
    await stream(10, () => sentinel.failover())
  }, 30_000)

  test('a master killed under 50 streams: every follower has all that was written, and wake-ups are served again', async () => {
    const { connection } = await connectForTest(sentinel.target)
    const queue = new RedisRunQueue(connection)
    let taken = 0
    const take = async () => {
      taken++
      return null
    }
    onTestFinished(queue.consume(take, 1))
    const port = await sentinel.masterPort()
    const master = sentinel.servers.find((server) => server.port === port)
    const [first] = sentinel.sentinels
    const followers = await stream(50, async () => {
      await Promise.all([master?.stop(), first?.stop()])
    })
    for (const { longestPause } of followers) expect(longestPause).toBeLessThan(10_000)
    const before = taken
    const servedAgain = async () => {
      await queue.wake(tenantIdOf(newId()))
      expect(taken).toBeGreaterThan(before)
    }
    await vi.waitFor(servedAgain, { timeout: 10_000 })
    await Promise.all([master?.restart(), first?.restart()])
  }, 60_000)

  test('one that is closed while no sentinel answers leaves nothing behind', async () => {
    const { connection } = await connectForTest(sentinel.target)
    await Promise.all([...sentinel.sentinels, ...sentinel.servers].map((server) => server.stop()))
    await vi.waitFor(() => expect(connection.subscriber.isReady).toBe(false))
    await delay(500)
    await connection.close()
  }, 30_000)
})
