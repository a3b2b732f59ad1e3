import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { Unavailable } from '../../src/domain/errors.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { RunRef, Signal } from '../../src/domain/ports.ts'
import { connectRedis } from '../../src/redis/connection.ts'
import { RedisEventLog } from '../../src/redis/event-log.ts'
import { platformKeys, runKeys } from '../../src/redis/key-space.ts'
import { RedisRunQueue } from '../../src/redis/run-queue.ts'
import { RedisSignals } from '../../src/redis/signals.ts'
import { followLog, newRun, writeAnswer } from '../support/log-streams.ts'
import { type ClusterNode, type RedisCluster, slotOf, startRedisCluster, startSlotMove } from '../support/redis-cluster.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'

describe.skipIf(!redisAvailable)(redisSuite('a cluster'), () => {
  let cluster: RedisCluster

  beforeAll(async () => {
    cluster = await startRedisCluster({ nodeTimeout: 1_500, password: 'p@ss/word' })
  }, 60_000)

  afterAll(() => cluster?.stop())

  const masterOf = (run: RunRef) => cluster.masterOf(runKeys(run).stream)

  /** Writes and follows runs, each on connections of its own, while `fault` is done. */
  async function stream(runs: RunRef[], every: number, fault: () => Promise<void>) {
    const [writer, reader] = await Promise.all([connectForTest(cluster.target), connectForTest(cluster.target)])
    const [log, other] = [new RedisEventLog(writer.connection), new RedisEventLog(reader.connection)]
    const followers = await Promise.all(runs.map((run) => followLog(other, run)))
    const stopping = new AbortController()
    const writing = Promise.all(runs.map((run) => writeAnswer(log, run, { every, signal: stopping.signal })))
    await delay(300)
    await fault()
    stopping.abort()
    const written = await writing
    await Promise.all(followers.map(({ ended }) => ended))
    expect(followers.map(({ text }) => text)).toEqual(written.map(({ text }) => text))
    return { followers, written }
  }

  test('a master killed under 50 streams: every follower has all that was written, and wake-ups are served again', async () => {
    const killed = await cluster.masterOf(platformKeys.wakeUps.prefix)
    const { connection } = await connectForTest(cluster.target)
    const queue = new RedisRunQueue(connection)
    const taken: number[] = []
    const take = async () => {
      taken.push(performance.now())
      return null
    }
    onTestFinished(queue.consume(take, 1))
    const sweeping = setInterval(() => void queue.wake(tenantIdOf(newId())).catch(() => undefined), 50)
    onTestFinished(() => clearInterval(sweeping))
    await vi.waitFor(() => expect(taken.length).toBeGreaterThan(2))

    let servedAt = 0
    const { followers } = await stream(Array.from({ length: 50 }, newRun), 20, async () => {
      await killed.stop()
      await cluster.settled(killed)
      servedAt = performance.now()
      await delay(1_500)
    })
    const pauses = followers.map(({ longestPause }) => longestPause).sort((a, b) => a - b)
    expect(pauses.at(-1)).toBeLessThan(10_000)
    // Shards that lost nobody go on meanwhile.
    expect(pauses.at(0)).toBeLessThan(900)
    await vi.waitFor(() => expect(taken.at(-1)).toBeGreaterThan(servedAt), { timeout: 10_000 })
    const gaps = taken.map((at, index) => at - (taken[index - 1] ?? at)).filter((gap) => gap > 500)
    expect(Math.max(...gaps)).toBeLessThan(10_000)
    await killed.restart()
    await cluster.settled()
  }, 60_000)

  test('a slot moved under live streams: no append fails, and only its followers subscribe again', async () => {
    const moved = newRun()
    const from = await masterOf(moved)
    const to = await anotherMaster(from)
    const stayed = await runOn(from)
    const { followers, written } = await stream([moved, stayed], 10, async () => {
      const move = await startSlotMove(slotOf(runKeys(moved).stream), from, to)
      await delay(300)
      await move.moveKeys()
      await delay(300)
      await move.finish()
      await delay(500)
    })
    expect(written.flatMap(({ errors }) => errors)).toEqual([])
    expect(followers.map(({ losses }) => losses)).toEqual([expect.any(Number), 0])
    expect(followers[0]?.losses).toBeGreaterThan(0)
    // The shard says at once that it serves the slot no longer.
    expect(followers[0]?.longestPause).toBeLessThan(1_000)
    expect((await masterOf(moved)).id).toBe(to.id)
  })

  test('a replica that takes over while its master lives: nothing is missed', async () => {
    const run = newRun()
    const signals = new RedisSignals((await connectForTest(cluster.target)).connection)
    const heard: Signal[] = []
    await signals.subscribe((signal) => heard.push(signal))
    const before = await masterOf(run)
    await stream([run], 10, async () => {
      const masters = [await masterOf(run), await cluster.masterOf(platformKeys.signals.prefix)]
      for (const master of new Set(masters)) await promoteReplica(master)
      await delay(1_000)
    })
    expect((await masterOf(run)).id).not.toBe(before.id)
    const signal: Signal = { type: 'AccessChanged', tenantId: run.tenantId }
    await vi.waitFor(async () => {
      await signals.publish(signal)
      expect(heard).toContainEqual(signal)
    })
  })

  test('a frozen master: calls fail within about a second until its replica has taken over', async () => {
    const run = newRun()
    const frozen = await masterOf(run)
    let slowest = 0
    const { connection } = await connectForTest(cluster.target)
    const log = new RedisEventLog(connection)
    await stream([run], 20, async () => {
      frozen.pause()
      const replaced = cluster.settled(frozen)
      for (let isServed = false; !isServed; ) {
        const started = performance.now()
        await log.read(run, null).then(
          () => {
            isServed = true
          },
          (error) => expect(error).toBeInstanceOf(Unavailable),
        )
        slowest = Math.max(slowest, performance.now() - started)
        await delay(10)
      }
      await replaced
    })
    frozen.resume()
    await cluster.settled()
    expect(slowest).toBeLessThan(1_500)
  }, 60_000)

  test('a shard that is gone: its runs are Unavailable at once, others go on, and nobody takes a part for the whole', async () => {
    const run = newRun()
    const { connection } = await connectForTest(cluster.target)
    const log = new RedisEventLog(connection)
    const master = await masterOf(run)
    const elsewhere = await runOn(await anotherMaster(master))
    const shard = [master, ...(await replicasOf(master))]
    await log.append(run, 1, 1, [{ type: 'TextDelta', text: 'a' }])
    await Promise.all(shard.map((node) => node.stop()))
    await vi.waitFor(() => expect(connection.masters).toThrow(Unavailable))
    const started = performance.now()
    await expect(log.append(run, 1, 2, [{ type: 'TextDelta', text: 'b' }])).rejects.toThrow(Unavailable)
    await expect(log.read(run, null)).rejects.toThrow(Unavailable)
    await expect(log.count(run.tenantId)).rejects.toThrow(Unavailable)
    await expect(log.erase(run.tenantId, [])).rejects.toThrow(Unavailable)
    expect(performance.now() - started).toBeLessThan(500)
    expect(await log.append(elsewhere, 1, 1, [{ type: 'TextDelta', text: 'a' }])).toEqual({ outcome: 'appended' })
    await Promise.all(shard.map((node) => node.restart()))
    await cluster.settled()
    await vi.waitFor(() => log.read(run, null), { timeout: 5_000 })
    await vi.waitFor(() => log.count(run.tenantId), { timeout: 5_000 })
  }, 60_000)

  test('a command whose reply was lost is not sent again', async () => {
    const { connection } = await connectForTest(cluster.target)
    const key = runKeys(newRun()).stream
    const node = await cluster.masterOf(key)
    const started = performance.now()
    const waiting = connection.commands.blpop(key, 0.8).catch((error) => error)
    await vi.waitFor(async () => expect(await node.client.info('clients')).toContain('blocked_clients:1'))
    await node.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    expect(await waiting).toBeInstanceOf(Error)
    expect(performance.now() - started).toBeLessThan(500)
  })

  test('all nodes gone: calls fail at once, subscriptions come back with the nodes, and what is closed meanwhile is closed', async () => {
    const [open, closed] = await Promise.all([connectForTest(cluster.target), connectForTest(cluster.target)])
    const [log, queue, run] = [new RedisEventLog(open.connection), new RedisRunQueue(open.connection), newRun()]
    const follower = await followLog(log, run)
    const [stop, stopGone] = [open, closed].map((each) => new RedisRunQueue(each.connection).consume(async () => null, 1))
    await queue.wake(run.tenantId)
    await Promise.all(cluster.nodes.map((node) => node.stop()))
    await vi.waitFor(() => expect(open.connection.commands.status).not.toBe('ready'), { timeout: 5_000 })
    const started = performance.now()
    await expect(log.append(run, 1, 1, [{ type: 'TextDelta', text: 'a' }])).rejects.toThrow(Unavailable)
    await expect(queue.wake(run.tenantId)).rejects.toThrow(Unavailable)
    expect(performance.now() - started).toBeLessThan(200)
    await stopGone?.()
    await closed.connection.close()
    await Promise.all(cluster.nodes.map((node) => node.restart()))
    await cluster.settled()
    await vi.waitFor(() => expect(follower.losses).toBe(1), { timeout: 5_000 })
    await vi.waitFor(() => log.append(run, 1, 1, [{ type: 'TextDelta', text: 'a' }]), { timeout: 5_000 })
    await vi.waitFor(() => expect(follower.text).toBe('a'))

    await stop?.()
    await open.connection.close()
    await vi.waitFor(async () => {
      const clients = await Promise.all(cluster.nodes.map(({ client }) => client.client('LIST')))
      expect(String(clients)).not.toContain('name=bulkhead-')
    })
  }, 60_000)

  test('the wrong mode is named, and so is a wrong password', async () => {
    const [url = ''] = cluster.urls
    const onError = () => undefined
    await expect(connectRedis({ mode: 'single', url }, { onError })).rejects.toThrow('Set REDIS_MODE to cluster.')
    const wrong = new URL(url)
    wrong.password = 'wrong'
    const refused = connectRedis({ mode: 'cluster', urls: [wrong.href] }, { onError, startTimeout: 300 })
    await expect(refused).rejects.toThrow(/cannot be used: WRONGPASS/)
    const server = await startRedisServer()
    onTestFinished(() => server.stop())
    const single = connectRedis({ mode: 'cluster', urls: [server.url] }, { onError, startTimeout: 300 })
    await expect(single).rejects.toThrow(/cannot be used: ERR This instance has cluster support disabled/)
  })

  async function anotherMaster(node: ClusterNode): Promise<ClusterNode> {
    return masterOf(await runOn(node, (other) => other !== node))
  }

  /** A new run that `node` serves, or one that is served by a node such as it is told. */
  async function runOn(node: ClusterNode, isIt = (master: ClusterNode) => master === node): Promise<RunRef> {
    for (;;) {
      const run = newRun()
      if (isIt(await masterOf(run))) return run
    }
  }

  async function replicasOf(master: ClusterNode): Promise<ClusterNode[]> {
    const lines = (await master.client.call('CLUSTER', 'REPLICAS', master.id)) as string[]
    return cluster.nodes.filter(({ id }) => lines.some((line) => line.startsWith(id)))
  }

  async function promoteReplica(master: ClusterNode): Promise<void> {
    const [replica] = await replicasOf(master)
    await replica?.client.call('CLUSTER', 'FAILOVER')
    await vi.waitFor(async () => expect(await replica?.client.info('replication')).toContain('role:master'), { timeout: 5_000 })
    await cluster.settled()
  }
})
