import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { KeyCache } from '../../src/secrets/key-cache.ts'

const acme = tenantIdOf(newId())
const globex = tenantIdOf(newId())

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** Counts how often keys had to be opened. */
function counting() {
  let opened = 0
  return { open: async () => ++opened, opened: () => opened }
}

describe('open keys', { tags: ['rule-13', 'rule-15'] }, () => {
  it('are opened once for all who ask at the same time, and kept', async () => {
    const { open, opened } = counting()
    const cache = new KeyCache<number>()
    await Promise.all([cache.get(acme, 'k', open), cache.get(acme, 'k', open)])
    await cache.get(acme, 'k', open)
    expect(opened()).toBe(1)
  })

  it("are never another tenant's, though the id is the same", async () => {
    const cache = new KeyCache<string>()
    expect(await cache.get(acme, 'k', async () => 'of acme')).toBe('of acme')
    expect(await cache.get(globex, 'k', async () => 'of globex')).toBe('of globex')
  })

  it('are gone after their time, however often they were used', async () => {
    const { open, opened } = counting()
    const cache = new KeyCache<number>({ ttl: 1_000 })
    for (let time = 0; time < 1_000; time += 100) {
      await cache.get(acme, 'k', open)
      vi.advanceTimersByTime(100)
    }
    expect(vi.getTimerCount()).toBe(0)
    await cache.get(acme, 'k', open)
    expect(opened()).toBe(2)
  })

  it('are forgotten with their tenant, also those that are being opened', async () => {
    const cache = new KeyCache<string>()
    const { promise, resolve } = Promise.withResolvers<string>()
    const opening = cache.get(acme, 'k', () => promise)
    await cache.get(globex, 'k', async () => 'of globex')
    cache.forget(acme)
    resolve('destroyed')
    await opening
    expect(await cache.get(acme, 'k', async () => 'asked again')).toBe('asked again')
    expect(await cache.get(globex, 'k', async () => 'asked again')).toBe('of globex')
  })

  it('are bounded: those used least recently give way, and leave no timer', async () => {
    const { open, opened } = counting()
    const cache = new KeyCache<number>({ max: 2 })
    for (const id of ['a', 'b', 'a', 'c']) await cache.get(acme, id, open)
    expect([opened(), vi.getTimerCount()]).toEqual([3, 2])
    await cache.get(acme, 'a', open)
    expect(opened()).toBe(3)
    await cache.get(acme, 'b', open)
    expect(opened()).toBe(4)
  })

  it('are asked for again after a failure', async () => {
    const cache = new KeyCache<string>()
    const failing = async () => {
      throw new Error('The key service is away.')
    }
    await expect(cache.get(acme, 'k', failing)).rejects.toThrow('away')
    expect(await cache.get(acme, 'k', async () => 'back')).toBe('back')
  })
})
