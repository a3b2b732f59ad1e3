import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import type { RunQueue, Taken } from '../../src/domain/ports.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import type { RedisConnection } from '../../src/redis/connection.ts'
import { RedisRunQueue } from '../../src/redis/run-queue.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisDeployment, redisDeployments } from '../support/redis-deployments.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'

/** For a machine that others use as well. */
const patience = { timeout: 10_000 }

type OpenQueue = { queue: RunQueue; errors: unknown[] }

async function inMemory(): Promise<OpenQueue> {
  const errors: unknown[] = []
  return { queue: new MemoryRunQueue({ onError: (error) => errors.push(error) }), errors }
}

let redis: RedisDeployment

/** On a Redis that is empty again. */
async function inRedis(): Promise<OpenQueue> {
  const { connection, errors } = await connectForTest(redis.target)
  await empty(connection)
  return { queue: new RedisRunQueue(connection), errors }
}

async function empty(connection: RedisConnection): Promise<void> {
  await Promise.all(connection.masters().map((master) => master.flushall()))
}

describe.each([
  { name: 'in memory', available: true, open: inMemory, start: null },
  ...redisDeployments.map((deployment) => ({ ...deployment, open: inRedis })),
])('run queue $name', ({ available, open, start }) => {
  const skipped = !available

  beforeAll(async () => {
    if (available && start) redis = await start()
  }, 60_000)

  afterAll(() => (start ? redis?.stop() : undefined))

  test.skipIf(skipped)('takes for wake-ups from before the consumer and from after', async () => {
    const { queue } = await open()
    const [a, b] = [newTenant(), newTenant()]
    const taken: TenantId[] = []
    await queue.wake(a)
    consume(queue, 1, async (tenantId) => {
      taken.push(tenantId)
      return null
    })
    await queue.wake(b)
    await vi.waitFor(() => expect(taken).toEqual([a, b]))
    await queue.wake(a)
    await vi.waitFor(() => expect(taken).toEqual([a, b, a]))
  })

  test.skipIf(skipped)('takes again and again while runs are found', async () => {
    const { queue } = await open()
    const work = backlogOf(new Map([[newTenant(), 25]]))
    consume(queue, 2, work.take)
    for (const tenantId of work.left.keys()) await queue.wake(tenantId)
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
  })

  test.skipIf(skipped)('goes round the tenants: a burst of one delays another by one run', async () => {
    const { queue } = await open()
    const [heavy, light, late] = [newTenant(), newTenant(), newTenant()]
    const backlog = new Map([[heavy, 5_000], [light, 2], [late, 1]]) // biome-ignore format: pairs
    const work = backlogOf(backlog, async () => {
      if (work.taken.length === 10) await queue.wake(late)
    })
    for (let run = 0; run < 500; run++) await queue.wake(heavy)
    await queue.wake(light)
    consume(queue, 1, work.take)
    await vi.waitFor(() => expect(work.taken.length).toBeGreaterThan(20))
    expect(work.taken.slice(0, 5)).toEqual([heavy, light, heavy, light, heavy])
    expect(work.taken.indexOf(late)).toBeLessThanOrEqual(12)
  })

  test.skipIf(skipped)('takes as many runs in a row as the weight says, also while there is room for one at a time', async () => {
    const { queue } = await open()
    const [enterprise, pro, free] = [newTenant(), newTenant(), newTenant()]
    const weights = new Map([[enterprise, 4], [pro, 2], [free, 1]]) // biome-ignore format: pairs
    const backlog = new Map([[enterprise, 12], [pro, 6], [free, 3]]) // biome-ignore format: pairs
    // Wake-ups that come in the middle of a turn neither end it nor lengthen it.
    const work = backlogOf(backlog, () => queue.wake(enterprise), (tenantId) => weights.get(tenantId) ?? 1) // biome-ignore format: short
    for (const tenantId of weights.keys()) await queue.wake(tenantId)
    consume(queue, 1, work.take)
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
    const round = [enterprise, enterprise, enterprise, enterprise, pro, pro, free]
    expect(work.taken).toEqual([...round, ...round, ...round])
  })

  test.skipIf(skipped)('gives a place to whoever has a run for the host of a consumer here, while there is room', async () => {
    const { queue } = await open()
    expect(queue.reserve()).toBeNull()
    consume(queue, 5, async () => null)
    expect(queue.reserve()).toBeNull()
    const serving = Promise.withResolvers<void>()
    const served: unknown[] = []
    const host = { workerId: newId(), serve: (run: unknown) => serving.promise.then(() => void served.push(run)) }
    const stop = queue.consume(async () => null, 1, host)
    onTestFinished(stop)
    const unused = queue.reserve()
    expect(unused?.workerId).toBe(host.workerId)
    expect(queue.reserve()).toBeNull()
    unused?.giveBack()
    await nextTurn()
    const place = queue.reserve()
    place?.begin('run' as never)
    place?.giveBack()
    await nextTurn()
    expect(queue.reserve()).toBeNull()
    const stopped = stop()
    serving.resolve()
    await stopped
    expect(served).toEqual(['run'])
    expect(queue.reserve()).toBeNull()
  })

  test.skipIf(skipped)('lets another consumer that has room go on with a turn', async () => {
    const { queue } = await open()
    const tenant = newTenant()
    const gate = Promise.withResolvers<void>()
    const work = backlogOf(new Map([[tenant, 3]]), () => gate.promise, () => 3) // biome-ignore format: short
    for (let consumer = 0; consumer < 3; consumer++) consume(queue, 1, work.take)
    await queue.wake(tenant)
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
    gate.resolve()
  })

  test.skipIf(skipped)('has no more under way than the concurrency, and a lone tenant may use all of it', async () => {
    const { queue } = await open()
    const tenant = newTenant()
    let running = 0
    let most = 0
    const work = backlogOf(new Map([[tenant, 40]]), async () => {
      most = Math.max(most, ++running)
      await delay(60)
      running--
    })
    consume(queue, 8, work.take)
    await queue.wake(tenant)
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
    expect(most).toBe(8)
  })

  test.skipIf(skipped)('coalesces wake-ups: after a burst, one take finds nothing, or two', async () => {
    const { queue } = await open()
    const tenant = newTenant()
    const work = backlogOf(new Map([[tenant, 50]]))
    for (let run = 0; run < 300; run++) await queue.wake(tenant)
    const stop = consume(queue, 10, work.take)
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
    await delay(50)
    await stop()
    expect(work.empty()).toBeLessThanOrEqual(2)
  })

  test.skipIf(skipped)('does not ask again for a tenant of which no other run waited', async () => {
    const { queue } = await open()
    const [tenant, another] = [newTenant(), newTenant()]
    const taken: TenantId[] = []
    consume(queue, 2, async (tenantId) => {
      taken.push(tenantId)
      return { ended: nextTurn(), weight: 5, othersWait: false }
    })
    await queue.wake(tenant)
    await vi.waitFor(() => expect(taken).toEqual([tenant]))
    await queue.wake(another)
    await vi.waitFor(() => expect(taken).toEqual([tenant, another]))
  })

  test.skipIf(skipped)('does not lose a wake-up that comes while a claim for the same tenant is being made', async () => {
    const { queue } = await open()
    const tenant = newTenant()
    const gate = Promise.withResolvers<void>()
    let takes = 0
    consume(queue, 1, async () => {
      if (++takes === 1) await gate.promise
      return null
    })
    await queue.wake(tenant)
    await vi.waitFor(() => expect(takes).toBe(1))
    await queue.wake(tenant)
    gate.resolve()
    await vi.waitFor(() => expect(takes).toBe(2))
  })

  test.skipIf(skipped)('reports what take throws or rejects with, and goes on', async () => {
    const { queue, errors } = await open()
    const [a, b, c] = [newTenant(), newTenant(), newTenant()]
    const failure = new Error('the database is down')
    const taken: TenantId[] = []
    consume(queue, 1, (tenantId) => {
      if (tenantId === a) throw failure
      if (tenantId === b) return Promise.reject(failure)
      taken.push(tenantId)
      return Promise.resolve(null)
    })
    for (const tenant of [a, b, c]) await queue.wake(tenant)
    await vi.waitFor(() => expect(taken).toEqual([c]))
    expect(errors).toEqual([failure, failure])
  })

  test.skipIf(skipped)('stops taking, waits for what is under way, leaves the rest to the next', async () => {
    const { queue } = await open()
    const gate = Promise.withResolvers<void>()
    const [a, b] = [newTenant(), newTenant()]
    const first: TenantId[] = []
    const stop = queue.consume(async (tenantId) => {
      first.push(tenantId)
      return { ended: gate.promise, weight: 1, othersWait: true }
    }, 1)
    await queue.wake(a)
    await vi.waitFor(() => expect(first).toEqual([a]))
    await queue.wake(b)
    let stopped = false
    const stopping = Promise.all([stop(), stop()]).then(() => {
      stopped = true
    })
    await nextTurn()
    expect(stopped).toBe(false)
    gate.resolve()
    await stopping
    expect(first).toEqual([a])

    const second: TenantId[] = []
    consume(queue, 1, async (tenantId) => {
      second.push(tenantId)
      return null
    })
    await vi.waitFor(() => expect(second.toSorted()).toEqual([a, b].toSorted()))
  })
})

describe.skipIf(!redisAvailable)(redisSuite('run queues of several processes'), () => {
  beforeAll(async () => {
    redis = await startRedisServer()
  })

  afterAll(() => redis?.stop())

  test('share the work: each wake-up is served once, a claim that one makes is not waited for by the other', async () => {
    const { queue: first } = await inRedis()
    const { connection } = await connectForTest(redis.target)
    const second = new RedisRunQueue(connection)
    const tenants = Array.from({ length: 40 }, newTenant)
    const work = backlogOf(new Map(tenants.map((tenantId) => [tenantId, 3])), () => delay(10))
    consume(first, 4, work.take)
    consume(second, 4, work.take)
    await Promise.all(tenants.map((tenantId) => first.wake(tenantId)))
    await vi.waitFor(() => expect(work.remaining()).toBe(0), patience)
  })

  test('serve again what is in the hands of a process that died, before its runs are given to others', async () => {
    const { queue: dead } = await inRedis()
    const { connection } = await connectForTest(redis.target)
    const living = new RedisRunQueue(connection)
    const tenant = newTenant()
    const never = Promise.withResolvers<null>()
    const atDead: TenantId[] = []
    const atLiving: TenantId[] = []
    consume(dead, 1, (tenantId) => {
      atDead.push(tenantId)
      return never.promise
    })
    onTestFinished(() => never.resolve(null))
    await dead.wake(tenant)
    await vi.waitFor(() => expect(atDead).toEqual([tenant]))
    consume(living, 1, async (tenantId) => {
      atLiving.push(tenantId)
      return null
    })
    await living.wake(tenant)
    await vi.waitFor(() => expect(atLiving).toContain(tenant), { timeout: 8_000 })
  })

  test('find the wake-up that is made after Redis lost everything', async () => {
    const { queue } = await inRedis()
    const tenant = newTenant()
    const taken: TenantId[] = []
    consume(queue, 1, async (tenantId) => {
      taken.push(tenantId)
      return null
    })
    await delay(100)
    const { connection } = await connectForTest(redis.target)
    await empty(connection)
    await queue.wake(tenant)
    await vi.waitFor(() => expect(taken).toEqual([tenant]))
  })

  test('take again within two seconds of an outage, however long it was', async () => {
    const lost = await startRedisServer()
    onTestFinished(() => lost.stop())
    const { connection } = await connectForTest(lost.target)
    const queue = new RedisRunQueue(connection)
    const taken: TenantId[] = []
    consume(queue, 1, async (tenantId) => {
      taken.push(tenantId)
      return null
    })
    await queue.wake(newTenant())
    await vi.waitFor(() => expect(taken).toHaveLength(1))
    await lost.stop()
    await delay(1_500)
    await lost.restart()
    await vi.waitFor(() => queue.wake(newTenant()), { timeout: 4_000 })
    await vi.waitFor(() => expect(taken).toHaveLength(2), { timeout: 2_000 })
  })

  test('stop also while Redis is away', async () => {
    const lost = await startRedisServer()
    onTestFinished(() => lost.stop())
    const { connection } = await connectForTest(lost.target)
    const stop = new RedisRunQueue(connection).consume(async () => null, 1)
    await delay(100)
    await lost.stop()
    await delay(100)
    await stop()
  })
})

/** Claims from counted backlogs, and notes for whom. `execute` is what a run does until it ends. */
function backlogOf(
  left: Map<TenantId, number>,
  execute: () => Promise<void> = () => nextTurn(),
  weightOf: (tenantId: TenantId) => number = () => 1,
) {
  const taken: TenantId[] = []
  let empty = 0
  const take = async (tenantId: TenantId): Promise<Taken | null> => {
    const waiting = left.get(tenantId) ?? 0
    if (waiting === 0) {
      empty++
      return null
    }
    left.set(tenantId, waiting - 1)
    taken.push(tenantId)
    return { ended: execute(), weight: weightOf(tenantId), othersWait: waiting > 1 }
  }
  const remaining = () => [...left.values()].reduce((sum, waiting) => sum + waiting, 0)
  return { take, taken, left, remaining, empty: () => empty }
}

function newTenant(): TenantId {
  return tenantIdOf(newId())
}

/** Consumes until the test ends. */
function consume(queue: RunQueue, concurrency: number, take: (tenantId: TenantId) => Promise<Taken | null>) {
  const stop = queue.consume(take, concurrency)
  onTestFinished(stop)
  return stop
}
