import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent } from '../../src/domain/agent-reply.ts'
import { NotFound, Unavailable, ValidationProblem } from '../../src/domain/errors.ts'
import type { EventLog, RunRef } from '../../src/domain/ports.ts'
import type { LoggedEvent, RunEvent } from '../../src/domain/run-event.ts'
import { logEpoch } from '../../src/domain/run-log.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { ask, follow, shownAfter, startWorker, until } from '../support/run-story.ts'
import { callsTools, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

/** A log whose events can get lost on their way, and which tells how many listen. */
class LeakyLog implements EventLog {
  readonly inner = new MemoryEventLog({ onError: () => undefined })
  listening = 0
  isAway = false
  losesLive = false
  readonly #lost = new Set<() => void>()

  async append(...args: Parameters<EventLog['append']>) {
    if (this.isAway) throw new Unavailable('The log is away.', 1)
    return this.inner.append(...args)
  }

  async read(...args: Parameters<EventLog['read']>) {
    if (this.isAway) throw new Unavailable('The log is away.', 1)
    return this.inner.read(...args)
  }

  async subscribe(run: RunRef, onEvents: (events: LoggedEvent[]) => void, onLost: () => void) {
    if (this.isAway) throw new Unavailable('The log is away.', 1)
    const unsubscribe = await this.inner.subscribe(run, (events) => void (this.losesLive || onEvents(events)))
    this.listening += 1
    this.#lost.add(onLost)
    return async () => {
      if (this.#lost.delete(onLost)) this.listening -= 1
      await unsubscribe()
    }
  }

  count: EventLog['count'] = (tenantId) => this.inner.count(tenantId)
  erase: EventLog['erase'] = (tenantId, openRuns) => this.inner.erase(tenantId, openRuns)

  reconnect() {
    for (const onLost of this.#lost) onLost()
  }
}

let log: LeakyLog
let story: Story
let acme: TenantStory

beforeAll(async () => {
  log = new LeakyLog()
  story = await startStory({ ports: { eventLog: log } })
  acme = await story.tenant()
})

afterAll(async () => {
  await story.close()
  expect(log.listening).toBe(0)
})

const never = new AbortController().signal
const deltas = (...texts: string[]): RunEvent[] => texts.map((text) => ({ type: 'TextDelta', text }))
const refOf = (run: { id: string }): RunRef => ({ tenantId: acme.tenant.id, runId: run.id })

/** A run that is answered by hand: a worker is said to be at it, and there is none. */
async function runByHand(scope: Scope = acme.member) {
  const { run } = await ask(scope)
  await scope.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', epoch: 1, workerId: randomUUID() } })
  const epoch = logEpoch(1)
  let seq = 1
  return {
    run,
    async append(...events: RunEvent[]) {
      await log.append(refOf(run), epoch, seq, events)
      seq += events.length
    },
    /** Ends it in Postgres; the log is told separately. */
    end: () =>
      scope.db.run.updateMany({
        where: { id: run.id },
        data: { status: 'FAILED', failureCode: 'X', failureMessage: 'Y', finishedAt: new Date() },
      }),
  }
}

const failed: RunEvent = {
  type: 'RunFailed',
  failure: { code: 'X', message: 'Y' },
  usage: { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0, reasoningTokens: 0, estimated: false },
}

/** Reads on by hand. */
function reader(runId: string, after: string | null = null, silence = 5_000, scope: Scope = acme.member) {
  const events = followRun(scope, runId, after, never, { silence })
  return { events, next: async () => (await events.next()).value as ReplyEvent | undefined }
}

describe('followers', () => {
  it('who come early, late, again, and at any cursor, end up with the same text', async () => {
    const words = 'Every follower ends up with the very same text, 👋 wherever it began.'.match(/\s*\S+/g) ?? []
    const model = scriptedModel([callsTools([{ name: 'current_time', arguments: '{}' }], 'Let me see. '), slowly(words)])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { enabledTools: ['current_time'] } })
    const { run } = await ask(member)
    const whole = `Let me see. ${words.join('')}`
    const early = await Promise.all([follow(member, run.id), leaving(member, run.id, 3), leaving(member, run.id, 6)])
    for (const events of early) expect(shownAfter(events)).toBe(whole)
    const [all = []] = early
    expect(all.length).toBeGreaterThan(8)
    expect(new Set(all.map(({ cursor }) => cursor)).size).toBe(all.length)

    await fc.assert(
      fc.asyncProperty(fc.nat(all.length - 1), fc.nat(all.length - 1), async (one, other) => {
        const had = all.slice(0, Math.min(one, other) + 1)
        const rest = await follow(member, run.id, had.at(-1)?.cursor)
        expect(shownAfter(rest, shownAfter(had))).toBe(whole)
        const again = await follow(member, run.id, all[Math.max(one, other)]?.cursor)
        expect(shownAfter(again, shownAfter(all.slice(0, Math.max(one, other) + 1)))).toBe(whole)
        expect(rest.at(-1)).toEqual(had.length === all.length ? undefined : all.at(-1))
      }),
      { numRuns: 30 },
    )
    expect(model.requests).toHaveLength(2)
  })

  it('are told of nothing after the last event', async () => {
    await using _ = await startWorker(story, { model: scriptedModel([says('Done.')]) })
    const { run } = await ask(acme.member)
    const events = await follow(acme.member, run.id)
    expect(await follow(acme.member, run.id, events.at(-1)?.cursor)).toEqual([])
  })

  it('are refused before anything else: unknown, foreign and malformed runs alike, then cursors', {
    tags: ['rule-12'],
  }, async () => {
    const globex = await story.tenant()
    const foreign = await ask(globex.member)
    const staffs = await ask(acme.member)
    for (const [scope, id] of [
      [acme.member, randomUUID()],
      [acme.member, 'x'],
      [acme.member, foreign.run.id],
      [acme.endUser, staffs.run.id],
    ] as const) {
      await expect(follow(scope, id)).rejects.toEqual(new NotFound('run'))
    }
    for (const after of ['', 'x', '1', '1-', '-1', '1-1-1', '01-1', '1-1 ', '99999999999-1', '1e3-1']) {
      const problem = await follow(acme.member, staffs.run.id, after).catch((error: unknown) => error)
      expect(problem).toBeInstanceOf(ValidationProblem)
      expect(problem).toMatchObject({ path: ['after'] })
    }
    expect(log.listening).toBe(0)
  })

  it('leave at once, also while they wait', async () => {
    const { run } = await runByHand()
    const { events } = reader(run.id)
    const waiting = events.next()
    await until(() => log.listening === 1)
    await events.return()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(log.listening).toBe(0)

    const leaving = new AbortController()
    const others = followRun(acme.member, run.id, null, leaving.signal)
    const next = others.next()
    await until(() => log.listening === 1)
    leaving.abort()
    expect(await next).toEqual({ done: true, value: undefined })
    expect(log.listening).toBe(0)

    await followRun(acme.member, run.id, null, AbortSignal.abort()).next()
    await followRun(acme.member, run.id, null, never).return()
    expect(log.listening).toBe(0)
  })
})

describe('when the log', () => {
  it('loses an event on its way, it is read again', async () => {
    const { run, append, end } = await runByHand()
    const following = follow(acme.member, run.id)
    await until(() => log.listening === 1)
    await append(...deltas('a'))
    log.losesLive = true
    await append(...deltas('b', 'c'))
    await new Promise(setImmediate)
    log.losesLive = false
    await end()
    await append(...deltas('d'), failed)
    const events = await following
    expect(shownAfter(events)).toBe('abcd')
    expect(events.map(({ type }) => type)).not.toContain('Snapshot')
  })

  it('reconnects, what was missed is read', async () => {
    const { run, append } = await runByHand()
    const { next, events } = reader(run.id)
    const first = next()
    await until(() => log.listening === 1)
    log.losesLive = true
    await append(...deltas('missed'))
    await new Promise(setImmediate)
    log.losesLive = false
    log.reconnect()
    expect(await first).toMatchObject({ text: 'missed' })
    await events.return()
  })

  it('loses the last event for good, the run is asked after a silence', async () => {
    const { run, append, end } = await runByHand()
    const following = follow(acme.member, run.id, null, 100)
    await until(() => log.listening === 1)
    await append(...deltas('a'))
    await end()
    const events = await following
    expect(events.map(({ type }) => type)).toEqual(['TextDelta', 'Snapshot', 'RunFailed'])
    expect(events.map(({ cursor }) => cursor)).toEqual(['1000-1', '1999-1', '1999-2'])
    expect(await follow(acme.member, run.id, '1999-2')).toEqual([])
  })

  it('has expired, a finished run is told from what is stored', async () => {
    await using _ = await startWorker(story, { model: scriptedModel([says('Stored.')]) })
    const { run } = await ask(acme.member)
    const events = await follow(acme.member, run.id)
    const elsewhere = {
      ...acme.member,
      ports: { ...acme.member.ports, eventLog: new MemoryEventLog({ onError: () => undefined }) },
    }
    for (const after of [null, '1000-1', '1-1', '900000-1']) {
      const late = await follow(elsewhere, run.id, after)
      expect(late.map(({ type }) => type)).toEqual(['Snapshot', 'RunCompleted'])
      expect(late[0]).toMatchObject({ text: 'Stored.', runId: run.id })
      expect({ ...late[1], cursor: '' }).toEqual({ ...events.at(-1), cursor: '' })
    }
  })

  it('is away, a finished run is told all the same, and one under way is Unavailable', async () => {
    const { run } = await runByHand()
    const ended = await runByHand()
    await ended.end()
    log.isAway = true
    await expect(follow(acme.member, run.id)).rejects.toBeInstanceOf(Unavailable)
    expect((await follow(acme.member, ended.run.id)).map(({ type }) => type)).toEqual(['Snapshot', 'RunFailed'])
    log.isAway = false
  })

  it('was lost while the run goes on, the follower has a snapshot and then all of it', async () => {
    const { run } = await runByHand()
    const turn = { text: 'First. ', toolCalls: [], results: [], outputTokens: 1, promptTokens: 1 }
    await acme.member.db.run.updateMany({ where: { id: run.id }, data: { turns: [turn] } })
    const { next, events } = reader(run.id, '1000-7')
    expect(await next()).toMatchObject({ type: 'Snapshot', text: 'First. ', cursor: '1000-0' })
    await log.append(refOf(run), logEpoch(1, 1), 1, [{ type: 'StreamReset', text: 'First. Sec' }, ...deltas('ond.')])
    expect(await next()).toMatchObject({ type: 'StreamReset', text: 'First. Sec' })
    expect(await next()).toMatchObject({ type: 'TextDelta', text: 'ond.' })
    await events.return()
  })

  it('has lost its beginning, who comes late starts from a restatement, and nobody else is shown it', async () => {
    const small = new MemoryEventLog({
      onError: () => undefined,
      limits: { liveTtl: 60_000, endedTtl: 60_000, maxEvents: 3 },
    })
    const member = { ...acme.member, ports: { ...acme.member.ports, eventLog: small } }
    const { run, end } = await runByHand()
    const all: RunEvent[] = [...deltas('a', 'b'), { type: 'StreamReset', text: 'ab' }, ...deltas('c')]
    const early = reader(run.id, null, 5_000, member)
    const first = early.next()
    await new Promise((resolve) => setTimeout(resolve, 30))
    for (const [index, event] of all.entries()) await small.append(refOf(run), logEpoch(1), index + 1, [event])
    expect(await first).toMatchObject({ type: 'TextDelta', text: 'a' })
    // In a process where nobody has followed it from its beginning.
    const elsewhere = { ...member, ports: { ...member.ports, eventLog: viewOf(small) } }
    const late = reader(run.id, null, 5_000, elsewhere)
    expect(await late.next()).toMatchObject({ type: 'Snapshot', text: 'abc', cursor: '1000-4' })
    await end()
    await small.append(refOf(run), logEpoch(1), 5, [...deltas('d'), failed])
    const rest = async ({ next }: typeof late) => {
      const events: ReplyEvent[] = []
      for (let event = await next(); event; event = await next()) events.push(event)
      return events
    }
    expect(shownAfter(await rest(late), 'abc')).toBe('abcd')
    const seen = await rest(early)
    expect(shownAfter(seen, 'a')).toBe('abcd')
    expect(seen.map(({ type }) => type)).toEqual(['TextDelta', 'RunFailed'])
  })
})

describe('a slow follower', () => {
  it('is given neighbouring texts as one', async () => {
    const { run, append } = await runByHand()
    const { next, events } = reader(run.id)
    await append(...deltas('a'))
    expect(await next()).toMatchObject({ text: 'a' })
    await append(...deltas('b', 'c', 'd'))
    await new Promise(setImmediate)
    expect(await next()).toMatchObject({ text: 'bcd', cursor: '1000-4' })
    await events.return()
  })

  it('lags when too much waits for it, is unsubscribed, and can go on where it was', {
    tags: ['edge-slow-readers'],
  }, async () => {
    const { run, append } = await runByHand()
    const { next } = reader(run.id)
    await append(...deltas('a'))
    expect(await next()).toMatchObject({ text: 'a' })
    await append(...deltas('x'.repeat(600_000)), ...deltas('y'.repeat(600_000)))
    await until(() => log.listening === 0)
    expect(await next()).toEqual({ type: 'Lagged', cursor: '1000-1', resumeAfter: '1000-1' })
    expect(await next()).toBeUndefined()
    // As much as may wait, each time that it asks.
    const again = reader(run.id, '1000-1')
    expect(await again.next()).toMatchObject({ type: 'TextDelta', text: 'x'.repeat(600_000), cursor: '1000-2' })
    expect(await again.next()).toMatchObject({ type: 'Lagged', resumeAfter: '1000-2' })
    const last = reader(run.id, '1000-2')
    expect(await last.next()).toMatchObject({ type: 'TextDelta', text: 'y'.repeat(600_000) })
    await last.events.return()
  })
})

/** The same log, as another process has it. */
function viewOf(log: EventLog): EventLog {
  return {
    append: (...args) => log.append(...args),
    read: (...args) => log.read(...args),
    subscribe: (...args) => log.subscribe(...args),
    count: (...args) => log.count(...args),
    erase: (...args) => log.erase(...args),
  }
}

/** Says the words with a pause before each, so that they are many events. */
function slowly(words: string[]) {
  return async function* () {
    for (const text of words) {
      await new Promise((resolve) => setTimeout(resolve, 30))
      yield { type: 'text' as const, text }
    }
    yield { type: 'finish' as const, reason: 'STOP' as const }
  }
}

/** Follows a run, leaving and coming back after every `count` events. */
async function leaving(scope: Scope, runId: string, count: number): Promise<ReplyEvent[]> {
  const events: ReplyEvent[] = []
  for (;;) {
    let read = 0
    const seen = events.length
    for await (const event of followRun(scope, runId, events.at(-1)?.cursor ?? null, never)) {
      events.push(event)
      read += 1
      if (read === count) break
    }
    if (events.length === seen) return events
  }
}
