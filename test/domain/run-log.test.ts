import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog } from '../../src/domain/ports.ts'
import type { RunEvent, TerminalEvent } from '../../src/domain/run-event.ts'
import { logEpoch, RunLog, type RunLogOptions } from '../../src/domain/run-log.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { until } from '../support/run-story.ts'

const run = { tenantId: tenantIdOf(randomUUID()), runId: randomUUID() }
const usage = { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0, reasoningTokens: 0, estimated: false }
const cancelled: TerminalEvent = { type: 'RunCancelled', text: '', usage }
const delta = (text: string): RunEvent => ({ type: 'TextDelta', text })

/** A log whose appends may fail before they arrive, or after, and which may lose all it has. */
class FlakyLog implements EventLog {
  fails: 'never' | 'before' | 'after' = 'never'
  appends = 0
  #inner = new MemoryEventLog({ onError: () => undefined })

  async append(...args: Parameters<EventLog['append']>) {
    this.appends += 1
    if (this.fails === 'before') throw new Error('It did not arrive.')
    const outcome = await this.#inner.append(...args)
    if (this.fails === 'after') throw new Error('It arrived, and nobody knows.')
    return outcome
  }

  read(...args: Parameters<EventLog['read']>) {
    return this.#inner.read(...args)
  }

  subscribe: EventLog['subscribe'] = (ref, onEvents) => this.#inner.subscribe(ref, onEvents)

  count: EventLog['count'] = (tenantId) => this.#inner.count(tenantId)
  erase: EventLog['erase'] = (tenantId, openRuns) => this.#inner.erase(tenantId, openRuns)

  expire() {
    this.#inner = new MemoryEventLog({ onError: () => undefined })
  }
}

/** What is said by the clock, another process may hold up. */
const busyMachine = { retry: 3 }

let eventLog: FlakyLog
let log: RunLog
let errors: unknown[]
let fenced: number

beforeEach(() => {
  eventLog = new FlakyLog()
  errors = []
  fenced = 0
})

afterEach(() => log.close())

function open(options: Partial<RunLogOptions> = {}): RunLog {
  const onError = (error: unknown) => void errors.push(error)
  return new RunLog({ eventLog, run, claim: 1, text: '', onFenced: () => void fenced++, onError, ...options })
}

/** So many more, of other runs. */
function openCrowd(count: number): RunLog[] {
  return Array.from({ length: count }, (_, index) => open({ run: { ...run, runId: `${run.runId}-${index}` } }))
}

/** Keeps the process busy. */
function block(millis: number): void {
  for (const began = performance.now(); performance.now() - began < millis; );
}

/** Cursor and text, or type, of everything in the log. */
async function entries(): Promise<string[]> {
  const { events } = await eventLog.read(run, null)
  return events.map(
    ({ cursor, event }) => `${cursor.epoch}-${cursor.seq} ${event.type === 'TextDelta' ? event.text : event.type}`,
  )
}

describe('a run log', () => {
  it('sends the first text at once, then what came in 25 ms together', async () => {
    log = open()
    for (const letter of 'abcdef') log.write(delta(letter))
    await delay(5)
    expect(await entries()).toEqual(['1000-1 a'])
    await until(async () => (await entries()).length === 2)
    expect(await entries()).toEqual(['1000-1 a', '1000-2 bcdef'])
  })

  it('says more at once while the process is busy, and as often as before once it is not', busyMachine, async () => {
    const crowd = openCrowd(16)
    /** How many of them sent what was written to all. */
    const sent = async (millis: number) => {
      const before = eventLog.appends
      for (const each of crowd) each.write(delta('a'))
      await delay(millis)
      return eventLog.appends - before
    }
    expect(await sent(1)).toBe(16)
    const all = sent(100)
    await delay(1)
    // Holds up the timers that are set by now.
    block(65)
    expect(await all).toBe(16)
    expect(await sent(60)).toBeLessThan(12)
    await delay(200)
    expect(await sent(60)).toBe(16)
    await Promise.all(crowd.map((each) => each.close()))
  })

  it('never says all at once, though all were held up together', busyMachine, async () => {
    const crowd = openCrowd(200)
    for (const each of crowd) each.write(delta('a'))
    for (const each of crowd) each.write(delta('b'))
    await delay(1)
    block(150)
    let most = 0
    for (let began = performance.now(); performance.now() - began < 600; ) {
      const before = eventLog.appends
      for (const each of crowd) each.write(delta('c'))
      await delay(5)
      // What was due while it was held up goes at once.
      if (performance.now() - began > 250) most = Math.max(most, eventLog.appends - before)
    }
    expect(most).toBeGreaterThan(0)
    expect(most).toBeLessThanOrEqual(100)
    await Promise.all(crowd.map((each) => each.close()))
  })

  it('is told when more text is of use: the first at once, then at its next beat', async () => {
    log = open()
    expect(log.beat()).toBeNull()
    log.write(delta('a'))
    await log.beat()
    expect(log.beat()).toBeNull()
    log.write(delta('b'))
    const beat = log.beat()
    expect(beat).not.toBeNull()
    expect(await entries()).toEqual(['1000-1 a', '1000-2 b'])
    // Whoever waits for it does not wait for ever.
    await log.close()
    await beat
    expect(log.beat()).toBeNull()
  })

  it('does not make anybody wait while it is away', async () => {
    log = open()
    eventLog.fails = 'before'
    log.write(delta('a'))
    await until(async () => errors.length === 1)
    expect(log.beat()).toBeNull()
  })

  it('says more at once the more of them a process writes', async () => {
    const others = openCrowd(200)
    log = open()
    log.write(delta('a'))
    await delay(1)
    log.write(delta('b'))
    // From its first beat on.
    await until(async () => (await entries()).length === 2)
    log.write(delta('c'))
    await delay(60)
    log.write(delta('d'))
    expect(await entries()).toEqual(['1000-1 a', '1000-2 b'])
    await until(async () => (await entries()).length === 3)
    expect(await entries()).toEqual(['1000-1 a', '1000-2 b', '1000-3 cd'])
    for (const other of others) await other.close()
  })

  it('sends no more than 1,000 events a second, of all of them together', async () => {
    const crowd = openCrowd(60)
    const began = performance.now()
    while (performance.now() - began < 500) {
      for (const each of crowd) each.write(delta('a'))
      await delay(5)
    }
    const seconds = (performance.now() - began) / 1_000
    // Besides the first of each, which goes at once, and the next, which goes with those of the others.
    expect(eventLog.appends).toBeLessThanOrEqual(1_000 * seconds + 2 * crowd.length)
    for (const each of crowd) await each.close()
  })

  it('does not hold back a kilobyte, nor anything but text', async () => {
    log = open()
    log.write(delta('a'))
    await delay(1)
    log.write(delta('b'.repeat(1_024)))
    await delay(5)
    expect(await entries()).toHaveLength(2)
    log.write(delta('c'))
    log.write({ type: 'ToolCallStarted', toolCallId: '1', name: 'x', arguments: '' })
    await delay(5)
    expect(await entries()).toHaveLength(4)
  })

  it('ends with everything in it, in order', async () => {
    log = open()
    for (const letter of 'abc') log.write(delta(letter))
    await log.end(cancelled)
    log.write(delta('too late'))
    await log.close()
    expect(await entries()).toEqual(['1000-1 a', '1000-2 bc', '1000-3 RunCancelled'])
  })

  it('opens a later claim with the text that was stored', async () => {
    log = open({ claim: 3, text: 'Before. ' })
    await delay(1)
    expect((await eventLog.read(run, null)).events).toEqual([
      { cursor: { epoch: 3_000, seq: 1 }, event: { type: 'StreamReset', text: 'Before. ' } },
    ])
  })

  it('gives way to a later claim', async () => {
    await eventLog.append(run, logEpoch(2), 1, [delta('later')])
    log = open()
    log.write(delta('a'))
    await log.end(cancelled)
    expect(fenced).toBe(1)
    expect(await entries()).toEqual(['2000-1 later'])
  })

  it.each(['before', 'after'] as const)('loses and repeats nothing when appends fail %s they arrive', async (when) => {
    log = open()
    log.write(delta('a'))
    await delay(1)
    eventLog.fails = when
    log.write(delta('b'.repeat(2_000)))
    await delay(1)
    log.write(delta('c'))
    await delay(10)
    expect(errors).toHaveLength(1)
    const tried = eventLog.appends
    await delay(50)
    expect(eventLog.appends).toBe(tried)
    eventLog.fails = 'never'
    await log.end(cancelled)
    expect(await entries()).toEqual(['1000-1 a', `1000-2 ${'b'.repeat(2_000)}`, '1000-3 c', '1000-4 RunCancelled'])
  })

  it('begins again, in a place of its own, when what was in it is lost', async () => {
    log = open()
    log.write(delta('a'))
    await delay(1)
    eventLog.expire()
    log.write(delta('b'))
    await log.end(cancelled)
    expect((await eventLog.read(run, null)).events).toEqual([
      { cursor: { epoch: 1_001, seq: 1 }, event: { type: 'StreamReset', text: 'ab' } },
      { cursor: { epoch: 1_001, seq: 2 }, event: cancelled },
    ])
  })

  it('gives up at the end after two seconds', async () => {
    eventLog.fails = 'before'
    log = open()
    const began = performance.now()
    await log.end(cancelled)
    expect(performance.now() - began).toBeGreaterThan(1_900)
    expect(performance.now() - began).toBeLessThan(3_000)
    expect(errors).toHaveLength(1)
  })

  it('restates all text now and then', async () => {
    log = open()
    for (let count = 0; count < 600; count++) {
      log.write(delta('x'))
      log.write({ type: 'ToolCallFinished', toolCallId: '1', outcome: 'COMPLETED' })
    }
    await delay(5)
    await log.end(cancelled)
    const { events } = await eventLog.read(run, null)
    const restated = events.flatMap(({ event }, index) => (event.type === 'StreamReset' ? [{ index, event }] : []))
    expect(restated).toHaveLength(1)
    const before = events.slice(0, restated[0]?.index).filter(({ event }) => event.type === 'TextDelta')
    expect(restated[0]?.event.text).toBe('x'.repeat(before.length))
    expect(events.at(-1)?.event.type).toBe('RunCancelled')
  })
})
