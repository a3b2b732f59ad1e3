import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { parseModelConcurrency } from '../../src/config-values.ts'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import type { ModelConcurrency } from '../../src/domain/model-concurrency.ts'
import type { ModelSlots } from '../../src/domain/ports.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { RedisModelSlots } from '../../src/redis/model-slots.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisDeployment, redisDeployments } from '../support/redis-deployments.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { type Ask, modelOfSlots } from './model-slots-model.ts'

const patience = { timeout: 10_000, interval: 5 }

/** As an operator writes it. */
function bounded(text: string): ModelConcurrency {
  const concurrency = parseModelConcurrency(text)
  if (!concurrency) throw new Error('Nobody could read that.')
  return concurrency
}

let redis: RedisDeployment

async function inRedis(text: string): Promise<ModelSlots> {
  const { connection } = await connectForTest(redis.target)
  await Promise.all(connection.masters().map((master) => master.flushall()))
  return new RedisModelSlots(connection, bounded(text), new MemoryModelSlots(bounded(text)))
}

describe.each([
  { name: 'in memory', available: true, open: async (text: string) => new MemoryModelSlots(bounded(text)), start: null },
  ...redisDeployments.map((deployment) => ({ ...deployment, open: inRedis })),
])('model slots $name', ({ available, open, start }) => {
  const skipped = !available

  beforeAll(async () => {
    if (available && start) redis = await start()
  }, 60_000)

  afterAll(() => (start ? redis?.stop() : undefined))

  test.skipIf(skipped)('bounds the models that are named each by its own number, all others together', async () => {
    const slots = await open('gpt-4o=1,*=2')
    const tenant = newTenant()
    const named = ask(slots, tenant, 1, 'gpt-4o')
    const second = ask(slots, tenant, 1, 'gpt-4o')
    const others = ['o3', 'gpt-5', 'llama'].map((model) => ask(slots, tenant, 1, model))
    await vi.waitFor(() => expect([named, ...others].filter(({ granted }) => granted)).toHaveLength(3), patience)
    expect(second.granted).toBe(false)
    await named.leave()
    await vi.waitFor(() => expect(second.granted).toBe(true), patience)
  })

  test.skipIf(skipped)('bounds nothing that nobody bounded', async () => {
    const slots = await open('gpt-4o=1')
    const asked = Array.from({ length: 50 }, () => ask(slots, newTenant(), 1, 'o3'))
    await vi.waitFor(() => expect(asked.every(({ granted }) => granted)).toBe(true), patience)
  })

  test.skipIf(skipped)('shares by weight among those who want more, and gives them what others leave', async () => {
    const slots = await open('m=20')
    const [enterprise, pro, free, modest] = [newTenant(), newTenant(), newTenant(), newTenant()]
    const first = ask(slots, newTenant(), 1)
    await vi.waitFor(() => expect(first.granted).toBe(true), patience)
    const crowd = [
      ...Array.from({ length: 30 }, () => ask(slots, enterprise, 4)),
      ...Array.from({ length: 30 }, () => ask(slots, pro, 2)),
      ...Array.from({ length: 30 }, () => ask(slots, free, 1)),
      ...Array.from({ length: 2 }, () => ask(slots, modest, 4)),
    ]
    const held = (tenant: TenantId) =>
      crowd.filter(({ tenantId, granted, left }) => tenantId === tenant && granted && !left).length
    await vi.waitFor(() => expect(crowd.filter(({ granted }) => granted)).toHaveLength(19), patience)
    await first.leave()
    // Nothing is taken back: the shares come about as calls end.
    for (let round = 0; round < 60; round++) {
      const ending = crowd.find(({ tenantId, granted, left }) => tenantId !== modest && granted && !left)
      if (crowd.filter(({ granted }) => !granted).length < 10) break
      await ending?.leave()
      await vi.waitFor(() => expect(crowd.filter(({ granted, left }) => granted && !left)).toHaveLength(20), patience)
      if (held(modest) === 2 && held(enterprise) >= 10 && held(pro) >= 5 && held(free) >= 2) break
    }
    expect(held(modest)).toBe(2)
    // 18 slots by 4 : 2 : 1 are 10.3, 5.1 and 2.6.
    expect([10, 11]).toContain(held(enterprise))
    expect([5, 6]).toContain(held(pro))
    expect([2, 3]).toContain(held(free))
  })

  test.skipIf(skipped)('goes round the tenants when there are fewer slots than tenants', async () => {
    const slots = await open('m=1')
    const [burst, light, other] = [newTenant(), newTenant(), newTenant()]
    const order: TenantId[] = []
    const first = ask(slots, newTenant(), 1)
    await vi.waitFor(() => expect(first.granted).toBe(true), patience)
    const asked: Asked[] = []
    for (const tenant of [...Array<TenantId>(20).fill(burst), light, light, other]) {
      asked.push(ask(slots, tenant, 1, 'm', () => order.push(tenant)))
      await delay(2)
    }
    await first.leave()
    for (let round = 1; round <= 6; round++) {
      await vi.waitFor(() => expect(order).toHaveLength(round), patience)
      await asked.find(({ granted, left }) => granted && !left)?.leave()
    }
    expect(order.slice(0, 6)).toEqual([burst, light, other, burst, light, burst])
  })

  test.skipIf(skipped)('lets go whoever waits when the signal is aborted, and gives the place to the next', async () => {
    const slots = await open('m=1')
    const holder = ask(slots, newTenant(), 1)
    await vi.waitFor(() => expect(holder.granted).toBe(true), patience)
    const stop = new AbortController()
    const reason = new Error('cancelled')
    const waiting = slots.acquire({ model: 'm', tenantId: newTenant(), weight: 1 }, stop.signal)
    const last = ask(slots, newTenant(), 1)
    await delay(50)
    stop.abort(reason)
    await expect(waiting).rejects.toBe(reason)
    await holder.leave()
    await vi.waitFor(() => expect(last.granted).toBe(true), patience)
    await expect(slots.acquire({ model: 'm', tenantId: newTenant(), weight: 1 }, stop.signal)).rejects.toBe(reason)
  })

  test.skipIf(skipped)(
    'does as the model does, whatever is asked for, given back and given up',
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 5 }),
          fc.array(fc.record({ act: fc.constantFrom('ask', 'ask', 'leave'), tenant: fc.nat(3), which: fc.nat(20) }), {
            maxLength: 30,
          }),
          async (cap, steps) => {
            const slots = await open(`m=${cap}`)
            const weights = [1, 1, 2, 4]
            const tenants = weights.map(newTenant)
            const model = modelOfSlots(cap)
            const asked: { real: Asked; model: Ask }[] = []
            const agree = () => expect(asked.map(({ real }) => real.granted)).toEqual(asked.map((each) => each.model.granted))
            for (const { act, tenant, which } of steps) {
              const open = asked.filter(({ model }) => !model.left)
              const chosen = open[which % open.length]
              if (act === 'ask') {
                const tenantId = tenants[tenant] ?? newTenant()
                const real = ask(slots, tenantId, weights[tenant] ?? 1)
                asked.push({ real, model: model.enter(tenant, weights[tenant] ?? 1) })
                // What is given back next must not arrive there before it.
                if (start) await delay(20)
              } else if (chosen) {
                model.leave(chosen.model)
                await chosen.real.leave()
              }
              await vi.waitFor(agree, { timeout: 5_000, interval: 1 })
              const bad = model.unfair()
              expect(bad).toBeNull()
            }
            await Promise.all(asked.map(({ real }) => real.leave()))
          },
        ),
        { numRuns: start ? 12 : 200, endOnFailure: true },
      )
    },
    60_000,
  )
})

describe.skipIf(!redisAvailable)(redisSuite('model slots of several processes'), () => {
  beforeAll(async () => {
    redis = await startRedisServer()
  })

  afterAll(() => redis?.stop())

  /** Of a process of its own. */
  async function another(text: string, lease?: number) {
    const { connection } = await connectForTest(redis.target)
    const local = new MemoryModelSlots(bounded(text))
    return { slots: new RedisModelSlots(connection, bounded(text), local, lease === undefined ? {} : { lease }), connection }
  }

  test('are one number for all, and shared among tenants wherever they ask', async () => {
    await inRedis('m=4')
    const processes = await Promise.all([another('m=4'), another('m=4'), another('m=4')])
    const [heavy, light] = [newTenant(), newTenant()]
    const first = await Promise.all(processes.flatMap(({ slots }) => Array.from({ length: 8 }, () => ask(slots, heavy, 1))))
    await vi.waitFor(() => expect(first.filter(({ granted }) => granted)).toHaveLength(4), patience)
    const late = processes.map(({ slots }) => ask(slots, light, 1))
    await delay(100)
    expect(late.some(({ granted }) => granted)).toBe(false)
    for (let ended = 0; ended < 2; ended++) await first.find(({ granted, left }) => granted && !left)?.leave()
    await vi.waitFor(() => expect(late.filter(({ granted }) => granted)).toHaveLength(2), patience)
    expect(first.filter(({ granted, left }) => granted && !left)).toHaveLength(2)
  })

  test('of one that died are free when its lease has run out', async () => {
    const survivor = await inRedis('m=1')
    const dying = await another('m=1', 1_500)
    const held = ask(dying.slots, newTenant(), 1)
    await vi.waitFor(() => expect(held.granted).toBe(true), patience)
    await dying.connection.close()
    const waiting = ask(survivor, newTenant(), 1)
    await delay(200)
    expect(waiting.granted).toBe(false)
    await vi.waitFor(() => expect(waiting.granted).toBe(true), patience)
  })

  test('that are used outlive their lease', async () => {
    await inRedis('m=1')
    const [holder, other] = await Promise.all([another('m=1', 4_000), another('m=1', 4_000)])
    const held = ask(holder.slots, newTenant(), 1)
    await vi.waitFor(() => expect(held.granted).toBe(true), patience)
    const waiting = ask(other.slots, newTenant(), 1)
    await delay(7_000)
    expect(waiting.granted).toBe(false)
    await held.leave()
    await vi.waitFor(() => expect(waiting.granted).toBe(true), patience)
  }, 30_000)

  test('are each process’s own while Redis is away: those who wait go on, and the cap holds here', async () => {
    const lost = await startRedisServer()
    onTestFinished(() => lost.stop())
    const { connection } = await connectForTest(lost.target)
    const slots = new RedisModelSlots(connection, bounded('m=2'), new MemoryModelSlots(bounded('m=2')))
    const tenant = newTenant()
    const held = [ask(slots, tenant, 1), ask(slots, tenant, 1)]
    await vi.waitFor(() => expect(held.every(({ granted }) => granted)).toBe(true), patience)
    const waiting = ask(slots, tenant, 1)
    await delay(100)
    await lost.stop()
    const asked = ask(slots, tenant, 1)
    await delay(4_000)
    expect([waiting, asked].some(({ granted }) => granted)).toBe(false)
    for (const each of held) await each.leave()
    await vi.waitFor(() => expect([waiting, asked].every(({ granted }) => granted)).toBe(true), patience)
    await lost.restart()
    await Promise.all([waiting.leave(), asked.leave()])
    await vi.waitFor(async () => {
      const again = ask(slots, tenant, 1)
      await delay(20)
      expect(again.granted).toBe(true)
      expect((await connection.commands.keys('{slots}*')).length).toBeGreaterThan(0)
    }, patience)
  }, 30_000)
})

type Asked = { tenantId: TenantId; granted: boolean; left: boolean; leave(): Promise<void> }

/** Asks for a slot, and notes whether it was granted. `leave` gives up or gives back. */
function ask(slots: ModelSlots, tenantId: TenantId, weight: number, model = 'm', onGrant: () => void = () => undefined): Asked {
  const stop = new AbortController()
  let release: (() => void) | null = null
  const asked: Asked = {
    ...{ tenantId, granted: false, left: false },
    async leave() {
      asked.left = true
      if (release) release()
      else stop.abort()
      await acquired
    },
  }
  const acquired = slots.acquire({ model, tenantId, weight }, stop.signal).then(
    (giveBack) => {
      release = giveBack
      asked.granted = true
      onGrant()
    },
    () => undefined,
  )
  return asked
}

function newTenant(): TenantId {
  return tenantIdOf(newId())
}
