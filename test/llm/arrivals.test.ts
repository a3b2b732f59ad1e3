import { PassThrough } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeEach, describe, expect, it } from 'vitest'
import { Arrivals } from '../../src/llm/arrivals.ts'

let body: PassThrough
let arrivals: Arrivals

beforeEach(() => {
  body = new PassThrough()
  arrivals = new Arrivals(body)
})

const taken = async () => {
  const bytes = await arrivals.take()
  return bytes && Buffer.from(bytes).toString()
}
const never = new Promise<void>(() => undefined)

describe('what arrives of a body', () => {
  it('is waited for, and what came meanwhile is taken in one piece', async () => {
    const first = taken()
    body.write('one')
    expect(await first).toBe('one')
    body.write(' two')
    body.write(' three')
    await delay(1)
    expect(await taken()).toBe(' two three')
    body.end(' end')
    expect(await taken()).toBe(' end')
    expect(await taken()).toBeNull()
    expect(await taken()).toBeNull()
  })

  it('is gathered until the beat, however much comes before', async () => {
    const beat = Promise.withResolvers<void>()
    let isGathered = false
    const gathered = arrivals.gather(beat.promise).then(() => {
      isGathered = true
    })
    body.write('one')
    await delay(5)
    body.write(' two')
    await delay(5)
    expect(isGathered).toBe(false)
    beat.resolve()
    await gathered
    expect(await taken()).toBe('one two')
  })

  it('is not gathered any longer when there is no more', async () => {
    const gathered = arrivals.gather(never)
    body.end('last')
    await gathered
    await arrivals.gather(never)
    expect(await taken()).toBe('last')
  })

  it('comes whole before what broke it off', async () => {
    body.write('half a')
    await delay(1)
    const gathered = arrivals.gather(never)
    body.destroy(new Error('It broke.'))
    await gathered
    expect(await taken()).toBe('half a')
    await expect(taken()).rejects.toThrow('It broke.')
    await expect(taken()).rejects.toThrow('It broke.')
  })

  it('is no more than 64 KiB and a piece ahead of who takes it, and nothing of it is lost', async () => {
    const piece = 'x'.repeat(10_000)
    for (let written = 0; written < 50; written++) body.write(piece)
    body.end()
    await delay(5)
    await arrivals.gather(never)
    let sum = 0
    for (let text = await taken(); text !== null; text = await taken()) {
      expect(text.length).toBeLessThanOrEqual(75_536)
      sum += text.length
    }
    expect(sum).toBe(500_000)
  })
})

describe('where several pieces came at a time', () => {
  beforeEach(async () => {
    for (const piece of ['a', 'b', 'c']) body.write(piece)
    await delay(1)
    expect(await taken()).toBe('abc')
  })

  it('the next are left where they are until the beat, and taken in one piece', async () => {
    const beat = Promise.withResolvers<void>()
    const gathered = arrivals.gather(beat.promise)
    expect(body.isPaused()).toBe(true)
    for (const piece of ['d', 'e']) body.write(piece)
    await delay(5)
    beat.resolve()
    await gathered
    expect(await taken()).toBe('de')
    // Two are not several: the end is not made to wait.
    const last = arrivals.gather(never)
    expect(body.isPaused()).toBe(false)
    body.end('f')
    await last
    expect(await taken()).toBe('f')
    expect(await taken()).toBeNull()
  })

  it('the end waits for the beat as well', async () => {
    const beat = Promise.withResolvers<void>()
    const gathered = arrivals.gather(beat.promise)
    body.end('d')
    await delay(5)
    beat.resolve()
    await gathered
    expect(await taken()).toBe('d')
    expect(await taken()).toBeNull()
  })

  it('what broke it off does not', async () => {
    const gathered = arrivals.gather(never)
    body.destroy(new Error('It broke.'))
    await gathered
    await expect(taken()).rejects.toThrow('It broke.')
  })
})
