// @module-tag rule-14
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import type { RunQueue } from '../../src/domain/ports.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'

type OpenQueue = { queue: RunQueue; errors: [error: unknown, tenantId: TenantId][] }

function inMemory(): OpenQueue {
  const errors: OpenQueue['errors'] = []
  return { queue: new MemoryRunQueue({ onError: (error, tenantId) => errors.push([error, tenantId]) }), errors }
}

describe.each([{ name: 'in memory', open: inMemory }])('run queue $name', ({ open }) => {
  test('takes once for each wake-up, whether it came before or after the consumer', async () => {
    const { queue } = open()
    const [a, b] = [newTenant(), newTenant()]
    const taken: TenantId[] = []
    await queue.wake(a)
    consume(queue, 1, async (tenantId) => {
      taken.push(tenantId)
      return false
    })
    await queue.wake(b)
    await vi.waitFor(() => expect(taken).toEqual([a, b]))
    await queue.wake(a)
    await vi.waitFor(() => expect(taken).toEqual([a, b, a]))
  })

  test('takes again and again while more may be waiting', async () => {
    const { queue } = open()
    let backlog = 25
    consume(queue, 2, async () => {
      await nextTurn()
      return --backlog > 0
    })
    await queue.wake(newTenant())
    await vi.waitFor(() => expect(backlog).toBe(0))
  })

  test('goes round the tenants: a burst of one delays another by one run', async () => {
    const { queue } = open()
    const [heavy, light, late] = [newTenant(), newTenant(), newTenant()]
    const backlog = new Map([
      [heavy, 5_000],
      [light, 2],
      [late, 1],
    ])
    const taken: TenantId[] = []
    for (let run = 0; run < 5_000; run++) await queue.wake(heavy)
    await queue.wake(light)
    consume(queue, 1, async (tenantId) => {
      taken.push(tenantId)
      if (taken.length === 10) await queue.wake(late)
      await nextTurn()
      const left = (backlog.get(tenantId) ?? 0) - 1
      backlog.set(tenantId, left)
      return left > 0
    })
    await vi.waitFor(() => expect(taken.length).toBeGreaterThan(20))
    expect(taken.slice(0, 5)).toEqual([heavy, light, heavy, light, heavy])
    expect(taken.indexOf(late)).toBeLessThanOrEqual(12)
  })

  test('runs no more than the concurrency at a time, and a lone tenant may use all of it', async () => {
    const { queue } = open()
    const tenant = newTenant()
    let running = 0
    let most = 0
    let done = 0
    for (let run = 0; run < 40; run++) await queue.wake(tenant)
    consume(queue, 8, async () => {
      most = Math.max(most, ++running)
      await nextTurn()
      running--
      return ++done < 40
    })
    await vi.waitFor(() => expect(done).toBeGreaterThanOrEqual(40))
    expect(most).toBe(8)
  })

  test('keeps to the concurrency when a take starts by waking others', async () => {
    const { queue } = open()
    let running = 0
    let most = 0
    let done = 0
    consume(queue, 2, async () => {
      most = Math.max(most, ++running)
      await Promise.all([queue.wake(newTenant()), nextTurn()])
      running--
      done++
      return false
    })
    await queue.wake(newTenant())
    await queue.wake(newTenant())
    await vi.waitFor(() => expect(done).toBeGreaterThan(10))
    expect(most).toBe(2)
  })

  test('coalesces wake-ups: after a burst only a bounded number of takes finds nothing', async () => {
    const { queue } = open()
    const tenant = newTenant()
    let backlog = 5_000
    let empty = 0
    for (let run = 0; run < 5_000; run++) await queue.wake(tenant)
    const stop = consume(queue, 10, async () => {
      if (backlog === 0) empty++
      else backlog--
      return backlog > 0
    })
    await vi.waitFor(() => expect(backlog).toBe(0))
    await stop()
    expect(empty).toBeLessThanOrEqual(110)
  })

  test('does not lose a wake-up that comes while a take of the same tenant is running', async () => {
    const { queue } = open()
    const tenant = newTenant()
    const gate = Promise.withResolvers<void>()
    let takes = 0
    consume(queue, 1, async () => {
      if (++takes === 1) await gate.promise
      return false
    })
    await queue.wake(tenant)
    await vi.waitFor(() => expect(takes).toBe(1))
    await queue.wake(tenant)
    gate.resolve()
    await vi.waitFor(() => expect(takes).toBe(2))
  })

  test('reports what take throws or rejects with, and goes on', async () => {
    const { queue, errors } = open()
    const [a, b, c] = [newTenant(), newTenant(), newTenant()]
    const failure = new Error('the database is down')
    const taken: TenantId[] = []
    consume(queue, 1, (tenantId) => {
      if (tenantId === a) throw failure
      if (tenantId === b) return Promise.reject(failure)
      taken.push(tenantId)
      return Promise.resolve(false)
    })
    for (const tenant of [a, b, c]) await queue.wake(tenant)
    await vi.waitFor(() => expect(taken).toEqual([c]))
    expect(errors).toEqual([
      [failure, a],
      [failure, b],
    ])
  })

  test.each([true, false])('stops taking, waits for what is running (more: %s), leaves the rest to the next', async (more) => {
    const { queue } = open()
    const gate = Promise.withResolvers<void>()
    const [a, b] = [newTenant(), newTenant()]
    const first: TenantId[] = []
    const stop = queue.consume(async (tenantId) => {
      first.push(tenantId)
      await gate.promise
      return more
    }, 1)
    await queue.wake(a)
    await queue.wake(b)
    await vi.waitFor(() => expect(first).toEqual([a]))
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
      return false
    })
    await vi.waitFor(() => expect(second).toEqual(more ? [b, a] : [b]))
  })
})

function newTenant(): TenantId {
  return tenantIdOf(newId())
}

/** Consumes until the test ends. */
function consume(queue: RunQueue, concurrency: number, take: (tenantId: TenantId) => Promise<boolean>) {
  const stop = queue.consume(take, concurrency)
  onTestFinished(stop)
  return stop
}
