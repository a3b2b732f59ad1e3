import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog, RunRef } from '../../src/domain/ports.ts'
import { type LoggedEvent, origin, type RunEvent } from '../../src/domain/run-event.ts'
import { joinHub } from '../../src/domain/run-hub.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'

/** A log that counts what it is asked, and can keep an append from whoever listens. */
class CountingLog implements EventLog {
  readonly inner = new MemoryEventLog({ onError: () => undefined })
  subscriptions = 0
  open = 0
  reads = 0
  losesLive = false
  refuses = false
  lose: () => void = () => undefined

  append: EventLog['append'] = (...args) => this.inner.append(...args)
  count: EventLog['count'] = (tenantId) => this.inner.count(tenantId)
  erase: EventLog['erase'] = (tenantId, openRuns) => this.inner.erase(tenantId, openRuns)

  read: EventLog['read'] = async (...args) => {
    this.reads += 1
    const backlog = await this.inner.read(...args)
    // As over a network: what is appended meanwhile is not in it.
    await new Promise(setImmediate)
    return backlog
  }

  subscribe: EventLog['subscribe'] = async (run, onEvents, onLost) => {
    this.subscriptions += 1
    if (this.refuses) throw new Error('Not now.')
    this.lose = onLost
    const unsubscribe = await this.inner.subscribe(run, (events) => void (this.losesLive || onEvents(events)))
    this.open += 1
    return async () => {
      this.open -= 1
      await unsubscribe()
    }
  }
}

let log: CountingLog
let run: RunRef
let seq = 0

beforeEach(() => {
  log = new CountingLog()
  run = { tenantId: tenantIdOf(newId()), runId: newId() }
  seq = 0
})

afterEach(() => expect(log.open).toBe(0))

async function append(...texts: string[]) {
  const events: RunEvent[] = texts.map((text) => ({ type: 'TextDelta', text }))
  await log.append(run, 1, seq + 1, events)
  seq += events.length
  await new Promise(setImmediate)
}

/** Joins, and notes what it is told. */
async function join(of: RunRef = run) {
  const heard: LoggedEvent[] = []
  let losses = 0
  const seat = await joinHub(log, of, {
    receive: (events) => void heard.push(...events),
    lost: () => {
      losses += 1
    },
  })
  return { ...seat, heard, losses: () => losses }
}

const textsOf = (events: readonly LoggedEvent[]) => events.map(({ event }) => ('text' in event ? event.text : event.type))

describe('a hub', () => {
  it('has one subscription for all who listen, and ends it with the last', async () => {
    const seats = await Promise.all([join(), join(), join()])
    expect([log.subscriptions, log.open]).toEqual([1, 1])
    await append('a')
    for (const { heard } of seats) expect(textsOf(heard)).toEqual(['a'])
    const [first, ...rest] = seats
    await first?.leave()
    await first?.leave()
    expect(log.open).toBe(1)
    await append('b')
    for (const { heard } of rest) expect(textsOf(heard)).toEqual(['a', 'b'])
    expect(textsOf(first?.heard ?? [])).toEqual(['a'])
    for (const { leave } of rest) await leave()
    expect(log.open).toBe(0)
    const again = await join()
    expect(log.subscriptions).toBe(2)
    await again.leave()
  })

  it('gives everyone the same objects, and reads the log once for all who come at once', async () => {
    await append('a', 'b')
    const seats = await Promise.all([join(), join(), join()])
    const backlogs = await Promise.all(seats.map(({ read }) => read(origin)))
    expect(log.reads).toBe(1)
    for (const { events } of backlogs)
      expect(events.map((event, index) => event === backlogs[0]?.events[index])).toEqual([true, true])
    await append('c')
    const late = await join()
    const { events, complete } = await late.read(origin)
    expect([textsOf(events), complete, log.reads]).toEqual([['a', 'b', 'c'], true, 1])
    expect(events[2]).toBe(seats[0]?.heard[0])
    for (const { leave } of [...seats, late]) await leave()
  })

  it('is of one run of one tenant', { tags: ['rule-13'] }, async () => {
    const other = { ...run, tenantId: tenantIdOf(newId()) }
    const [own, foreign] = [await join(), await join(other)]
    expect(log.subscriptions).toBe(2)
    await append('secret')
    expect(textsOf(own.heard)).toEqual(['secret'])
    expect(foreign.heard).toEqual([])
    expect((await foreign.read(origin)).events).toEqual([])
    await Promise.all([own.leave(), foreign.leave()])
  })

  it('misses nothing for who joins while another reads', async () => {
    await append('a')
    const first = await join()
    const reading = first.read(origin)
    await append('b')
    const second = await join()
    expect(textsOf((await second.read(origin)).events)).toEqual(['a', 'b'])
    expect(textsOf((await reading).events)).toEqual(['a', 'b'])
    await Promise.all([first.leave(), second.leave()])
  })

  it('asks the log again when something was lost on the way: a message, the last one, or the subscription', async () => {
    const seat = await join()
    await append('a')
    log.losesLive = true
    await append('b')
    log.losesLive = false
    await append('c')
    expect(textsOf((await seat.read({ epoch: 1, seq: 1 })).events)).toEqual(['b', 'c'])

    log.losesLive = true
    await append('d')
    expect(textsOf((await seat.read({ epoch: 1, seq: 3 })).events)).toEqual(['d'])
    await append('e')
    log.losesLive = false
    log.lose()
    expect(seat.losses()).toBe(1)
    expect(textsOf((await seat.read(origin)).events)).toEqual(['a', 'b', 'c', 'd', 'e'])
    await seat.leave()
  })

  it('remembers so much and no more, and the log the rest', async () => {
    const seat = await join()
    for (let count = 0; count < 6; count++) await append('x'.repeat(100_000))
    const before = log.reads
    expect((await seat.read({ epoch: 1, seq: 5 })).events).toHaveLength(1)
    expect(log.reads).toBe(before)
    expect((await seat.read(origin)).events).toHaveLength(6)
    expect(log.reads).toBe(before + 1)
    await seat.leave()
  })

  it('looks once for all who look at the same time, and for each end user apart', { tags: ['rule-18'] }, async () => {
    const [one, other] = [await join(), await join()]
    let looks = 0
    const look = async () => {
      looks += 1
      await new Promise(setImmediate)
      return looks
    }
    expect(await Promise.all([one.together(null, look), other.together(null, look)])).toEqual([1, 1])
    const [ann, bob, staff] = await Promise.all([one.together('ann', look), one.together('bob', look), one.together(null, look)])
    expect([ann, bob, staff, looks]).toEqual([4, 4, 4, 4])
    await expect(one.together(null, () => Promise.reject(new Error('away')))).rejects.toThrow('away')
    expect(await one.together(null, look)).toBe(5)
    await Promise.all([one.leave(), other.leave()])
  })

  it('that cannot be opened fails for each who wanted it, and the next one tries again', async () => {
    log.refuses = true
    const outcomes = await Promise.allSettled([join(), join()])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    log.refuses = false
    const seat = await join()
    expect(log.subscriptions).toBe(2)
    await seat.leave()
  })
})
