import { validate, version } from 'uuid'
import { expect, it, vi } from 'vitest'
import { isUuid, newId } from '../../src/domain/ids.ts'

it('are UUIDs of version 7, each another, in the order in which they are made', () => {
  const ids = Array.from({ length: 10_000 }, newId)
  expect(ids.every((id) => isUuid(id) && validate(id) && version(id) === 7)).toBe(true)
  expect(ids.toSorted()).toEqual(ids)
  expect(new Set(ids.map((id) => id.slice(24))).size).toBe(ids.length)
})

it('go on in order when the clock is set back, and say when they were made', () => {
  const before = newId()
  const madeAt = Number.parseInt(before.replace('-', '').slice(0, 12), 16)
  expect(Math.abs(Date.now() - madeAt)).toBeLessThan(1_000)
  const clock = vi.spyOn(Date, 'now').mockReturnValue(Date.parse('2000-01-01'))
  const after = newId()
  clock.mockRestore()
  expect([before, after, newId()].toSorted()[1]).toBe(after)
})
