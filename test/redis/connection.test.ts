import { setTimeout as delay } from 'node:timers/promises'
import { ReplyError } from 'ioredis'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Unavailable } from '../../src/domain/errors.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog, RunRef, Signal } from '../../src/domain/ports.ts'
import { compareCursors, type LoggedEvent, type RunEvent } from '../../src/domain/run-event.ts'
import { connectRedis, type RedisConnection } from '../../src/redis/connection.ts'
import { RedisEventLog } from '../../src/redis/event-log.ts'
import { RedisSignals } from '../../src/redis/signals.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'

describe.skipIf(!redisAvailable)(redisSuite('when Redis fails'), () => {
  test('a follower whose connection is lost again and again misses nothing', async () => {
    const { url } = await serverForTest()
    const writer = new RedisEventLog((await connectForTest(url)).connection)
    const { connection } = await connectForTest(url)
    const run = newRun()
    const follower = await follow(new RedisEventLog(connection), run)
    for (let seq = 1; seq <= 300; seq++) {
      await writer.append(run, 1, seq, [delta(String(seq))])
      if (seq % 100 === 50) {
        const losses = follower.losses
        await Promise.all([untilLost(connection), killSubscribers(connection)])
        await writer.append(run, 1, ++seq, [delta(String(seq))])
        await vi.waitFor(() => expect(follower.losses).toBe(losses + 1))
      }
    }
    const { events } = await writer.read(run, null)
    expect(events).toHaveLength(300)
    await vi.waitFor(() => expect(follower.events()).toEqual(events))
    expect(follower.losses).toBe(3)
  })

  test('a run has one Redis subscription per process, restored when lost and ended with its last follower', async () => {
    const { url } = await serverForTest()
    const { connection } = await connectForTest(url)
    const [log, run, other] = [new RedisEventLog(connection), newRun(), newRun()]
    const subscriptions = async () => {
      const channels = (await connection.commands.pubsub('SHARDCHANNELS')) as string[]
      const counts = (await connection.commands.pubsub('SHARDNUMSUB', ...channels)) as (string | number)[]
      return Object.fromEntries(channels.map((name) => [name, counts[counts.indexOf(name) + 1]]))
    }
    const leaves = await Promise.all(
      [1, 2, 3].map(() =>
        log.subscribe(
          run,
          () => undefined,
          () => undefined,
        ),
      ),
    )
    const { losses, ...follower } = await follow(log, other)
    expect(losses).toBe(0)
    const both = { [`{r:${run.tenantId}:${run.runId}}:c`]: 1, [`{r:${other.tenantId}:${other.runId}}:c`]: 1 }
    expect(await subscriptions()).toEqual(both)

    await killSubscribers(connection)
    await vi.waitFor(async () => expect(await subscriptions()).toEqual(both))
    await Promise.all(leaves.map((leave) => leave()))
    expect(await subscriptions()).toEqual({ [`{r:${other.tenantId}:${other.runId}}:c`]: 1 })
    await log.append(other, 1, 1, [delta('a')])
    await vi.waitFor(() => expect(follower.events()).toHaveLength(1))
  })

  test('calls fail as Unavailable within about a second while Redis is silent, and work again when it answers', async () => {
    const server = await serverForTest()
    const { connection } = await connectForTest(server.url)
    const [log, signals, run] = [new RedisEventLog(connection), new RedisSignals(connection), newRun()]
    await log.append(run, 1, 1, [delta('a')])
    server.pause()
    const started = performance.now()
    await Promise.all(
      [
        log.append(run, 1, 2, [delta('b')]),
        log.read(run, null),
        log.subscribe(
          run,
          () => undefined,
          () => undefined,
        ),
        signals.publish(cancelRun()),
        signals.subscribe(() => undefined),
      ].map(expectUnavailable),
    )
    expect(performance.now() - started).toBeLessThan(1_500)

    server.resume()
    // The append may have reached Redis although its reply came too late: sending it again is safe.
    await eventually(() => log.append(run, 1, 2, [delta('b')]))
    const { events } = await log.read(run, null)
    expect(events.map(({ event }) => event)).toEqual([delta('a'), delta('b')])
  })

  test('calls fail at once while Redis is down, and subscriptions come back with it', async () => {
    const server = await serverForTest()
    const { connection, errors } = await connectForTest(server.url)
    const [log, signals, run] = [new RedisEventLog(connection), new RedisSignals(connection), newRun()]
    const follower = await follow(log, run)
    const heard: Signal[] = []
    await signals.subscribe((signal) => heard.push(signal))
    await log.append(run, 1, 1, [delta('a')])
    await server.stop()
    await vi.waitFor(() => expect(connection.commands.status).not.toBe('ready'))
    const started = performance.now()
    await expectUnavailable(log.append(run, 1, 2, [delta('b')]))
    await expectUnavailable(log.read(run, null))
    await expectUnavailable(signals.publish(cancelRun()))
    await expectUnavailable(
      log.subscribe(
        newRun(),
        () => undefined,
        () => undefined,
      ),
    )
    expect(performance.now() - started).toBeLessThan(200)
    await vi.waitFor(() => expect(String(errors)).toContain('ECONNREFUSED'))

    await server.restart()
    await eventually(() => log.read(run, null))
    await vi.waitFor(() => expect(follower.losses).toBe(1), { timeout: 5_000 })
    expect(await log.append(run, 1, 2, [delta('b')])).toMatchObject({ outcome: 'gap', last: { epoch: 0, seq: 0 } })
    await log.append(run, 2, 1, [delta('again')])
    await vi.waitFor(() => expect(follower.events().at(-1)?.event).toEqual(delta('again')))
    const signal = cancelRun()
    await vi.waitFor(async () => {
      await signals.publish(signal)
      expect(heard).toContainEqual(signal)
    })
  })

  test('a subscriber notices a connection that is open and dead', async () => {
    const server = await serverForTest()
    const { connection } = await connectForTest(server.url, { commandTimeout: 100, pingInterval: 50 })
    const follower = await follow(new RedisEventLog(connection), newRun())
    server.pause()
    await vi.waitFor(() => expect(connection.subscriber.isReady).toBe(false))
    server.resume()
    await vi.waitFor(() => expect(follower.losses).toBe(1), { timeout: 5_000 })
  })

  test('a flushed script cache goes unnoticed', async () => {
    const { url } = await serverForTest()
    const { connection } = await connectForTest(url)
    const [log, run] = [new RedisEventLog(connection), newRun()]
    await log.append(run, 1, 1, [delta('a')])
    await log.append(run, 1, 2, [delta('b')])
    await connection.commands.script('FLUSH')
    expect(await log.append(run, 1, 3, [delta('c')])).toEqual({ outcome: 'appended' })
  })

  test('a full Redis is Unavailable and takes nothing; an error of ours is not disguised as that', async () => {
    const { url } = await serverForTest()
    const { connection } = await connectForTest(url)
    const [log, run] = [new RedisEventLog(connection), newRun()]
    await log.append(run, 1, 1, [delta('a')])
    await connection.commands.config('SET', 'maxmemory', '1')
    await expectUnavailable(log.append(run, 1, 2, [delta('b'), delta('c')]))
    await connection.commands.config('SET', 'maxmemory', '0')
    expect((await log.read(run, null)).events).toHaveLength(1)

    const broken = newRun()
    await connection.commands.set(`{r:${broken.tenantId}:${broken.runId}}:s`, 'not a stream')
    await expect(log.append(broken, 1, 1, [delta('a')])).rejects.toThrow(ReplyError)
  })

  test('messages that are not ours are reported and dropped', async () => {
    const { url } = await serverForTest()
    const { connection, errors } = await connectForTest(url)
    const [log, signals, run] = [new RedisEventLog(connection), new RedisSignals(connection), newRun()]
    const follower = await follow(log, run)
    const heard: Signal[] = []
    await signals.subscribe((signal) => heard.push(signal))
    const malformed = ['', '{', 'null', '[]', '{"type":"CancelRun"}', '{"type":"Other","tenantId":"x"}']
    const foreign = JSON.stringify({ type: 'CancelRun', tenantId: 'x', runId: newId() })
    const bare = JSON.stringify({ type: 'CancelRun', tenantId: newRun().tenantId, runId: 'x' })
    for (const message of [...malformed, foreign, bare]) await connection.commands.spublish('{signals}:c', message)
    for (const message of malformed) await connection.commands.spublish(`{r:${run.tenantId}:${run.runId}}:c`, message)
    await log.append(run, 1, 1, [delta('a')])
    const signal = cancelRun()
    await signals.publish(signal)
    await vi.waitFor(() => expect(heard).toEqual([signal]))
    expect(follower.events()).toHaveLength(1)
    expect(errors).toHaveLength(2 * malformed.length + 2)
    expect(String(errors[0])).toContain('malformed message on {signals}:c')
  })

  test('a Redis that cannot be used at first is named with the reason, without the password', async () => {
    const server = await serverForTest()
    const address = server.url.slice('redis://'.length)
    const connect = (url: string) =>
      connectRedis({ mode: 'single', url }, { onError: () => undefined, startTimeout: 100, commandTimeout: 100 })
    await expect(connect(`redis://user:secret@${address}`)).rejects.toThrow(/WRONGPASS(?!.*secret)/)

    server.pause()
    await expect(connect(server.url)).rejects.toThrow(Unavailable)
    server.resume()
    await delay(100)
    expect(await connectionsTo(server.url)).toBe(2)

    await server.stop()
    await expect(connect(server.url)).rejects.toThrow(`Redis at ${address} cannot be used: connect ECONNREFUSED`)
  })

  test('closing ends the sockets in any state, and calls fail from then on', async () => {
    const server = await serverForTest()
    const open = await connectRedis({ mode: 'single', url: server.url }, { onError: () => undefined })
    const down = await connectRedis({ mode: 'single', url: server.url }, { onError: () => undefined })
    const log = new RedisEventLog(open)
    await open.close()
    await open.close()
    await expectUnavailable(log.read(newRun(), null))
    await server.stop()
    await vi.waitFor(() => expect(down.commands.status).toBe('reconnecting'))
    await down.close()
    await server.restart()
    expect(await connectionsTo(server.url)).toBe(2)
  })
})

async function serverForTest() {
  const server = await startRedisServer()
  onTestFinished(() => server.stop())
  return server
}

function newRun(): RunRef {
  return { tenantId: tenantIdOf(newId()), runId: newId() }
}

function cancelRun(): Signal {
  return { type: 'CancelRun', tenantId: tenantIdOf(newId()), runId: newId() }
}

function delta(text: string): RunEvent {
  return { type: 'TextDelta', text }
}

/** Follows a run as a client does: what a lost connection may have missed is read again. */
async function follow(log: EventLog, run: RunRef) {
  const events = new Map<string, LoggedEvent>()
  const add = (added: LoggedEvent[]) => {
    for (const logged of added) events.set(JSON.stringify(logged.cursor), logged)
  }
  const follower = {
    losses: 0,
    events: () => [...events.values()].sort((a, b) => compareCursors(a.cursor, b.cursor)),
  }
  await log.subscribe(run, add, () => {
    follower.losses++
    void eventually(() => log.read(run, null)).then((backlog) => add(backlog.events))
  })
  return follower
}

/** The connections of this platform that Redis sees, the two that ask included. */
async function connectionsTo(url: string): Promise<number> {
  const { connection } = await connectForTest(url)
  const clients = String(await connection.commands.client('LIST'))
  return clients.split('\n').filter((client) => client.includes('name=bulkhead-')).length
}

async function untilLost({ subscriber }: RedisConnection): Promise<void> {
  await vi.waitFor(() => expect(subscriber.isReady).toBe(false), { interval: 1 })
}

async function killSubscribers(connection: RedisConnection): Promise<void> {
  await connection.commands.client('KILL', 'TYPE', 'PUBSUB')
}

async function expectUnavailable(call: Promise<unknown>): Promise<void> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(Unavailable)
  expect(error).toMatchObject({ retryAfterSeconds: 2 })
}

/** Calls until it no longer fails as Unavailable, for 5 seconds at most. */
async function eventually<T>(call: () => Promise<T>): Promise<T> {
  return vi.waitFor(call, { timeout: 5_000, interval: 20 })
}
