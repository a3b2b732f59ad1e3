import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { defaultEventLogLimits, type EventLogLimits, erasedMark } from '../../src/domain/event-log.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog, RunRef } from '../../src/domain/ports.ts'
import { type Cursor, formatCursor, type LoggedEvent, origin, type RunEvent } from '../../src/domain/run-event.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { RedisEventLog } from '../../src/redis/event-log.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisDeployment, redisDeployments } from '../support/redis-deployments.ts'
import { describeEventLogModel, type EventLogPair } from './event-log-model.ts'

let redis: RedisDeployment

async function inMemory(limits?: EventLogLimits): Promise<EventLogPair> {
  const errors: unknown[] = []
  const log = new MemoryEventLog({ onError: (error) => errors.push(error), limits })
  return { log, other: log, errors }
}

async function onRedis(limits?: EventLogLimits): Promise<EventLogPair> {
  const one = await connectForTest(redis.target)
  const two = await connectForTest(redis.target)
  return { log: new RedisEventLog(one.connection, limits), other: new RedisEventLog(two.connection, limits), errors: two.errors }
}

describe.each([
  { name: 'in memory', open: inMemory, available: true, start: async () => undefined },
  ...redisDeployments.map(({ start, ...deployment }) => ({
    ...deployment,
    open: onRedis,
    start: async () => {
      redis = await start()
      return () => redis.stop()
    },
  })),
])('event log $name', ({ open, available, start }) => {
  describe.skipIf(!available)('keeps the contract:', () => {
    beforeAll(start, 60_000)

    describeEventLogModel(open)

    describe('erase', { tags: ['rule-13'] }, () => {
      test("leaves none of the tenant's events, and all of its neighbour's", async () => {
        const { log, other } = await open()
        const [run, neighbour] = [newRun(), newRun()]
        const runs = [run, ...Array.from({ length: 30 }, () => ({ ...run, runId: newId() }))]
        for (const each of [...runs, neighbour]) await log.append(each, 1, 1, deltas('secret', 'words'))
        expect([await other.count(run.tenantId), await other.count(neighbour.tenantId)]).toEqual([31, 1])

        await log.erase(run.tenantId, [])
        expect([await other.count(run.tenantId), await other.count(neighbour.tenantId)]).toEqual([0, 1])
        for (const each of runs) expect((await other.read(each, null)).events).toEqual([erasedMark])
        expect((await other.read(neighbour, null)).events.map(textOf)).toEqual(['secret', 'words'])
        await log.erase(run.tenantId, [run.runId])
        expect(await other.count(run.tenantId)).toBe(0)
      })

      test('refuses what a writer appends late, also to a run that had no events yet', async () => {
        const { log, other } = await open()
        const [run, silent] = [newRun(), newRun()]
        await log.append(run, 1, 1, deltas('a'))
        await log.erase(run.tenantId, [])
        await log.erase(silent.tenantId, [silent.runId])
        const fenced = { outcome: 'fenced', last: erasedMark.cursor }
        for (const late of [run, silent]) {
          expect(await other.append(late, 1, 2, deltas('b'))).toEqual(fenced)
          expect(await other.append(late, 1_000_999, 1, deltas('b'))).toEqual(fenced)
          expect(await log.count(late.tenantId)).toBe(0)
        }
      })

      test('tells whoever follows that the run is over', async () => {
        const { log, other } = await open()
        const run = newRun()
        await log.append(run, 1, 1, deltas('a'))
        const received = await follow(other, run)
        await log.erase(run.tenantId, [])
        await vi.waitFor(() => expect(received).toEqual([erasedMark]))
      })

      test('forgets even that after a while', async () => {
        const { log, other } = await open({ liveTtl: 50, endedTtl: 50, maxEvents: 10 })
        const run = newRun()
        await log.erase(run.tenantId, [run.runId])
        expect((await other.read(run, null)).events).toEqual([erasedMark])
        await vi.waitFor(async () => expect((await other.read(run, null)).events).toEqual([]))
      })
    })

    describe('append', () => {
      test('takes events in order and hands them back with their cursors', async () => {
        const { log, other } = await open()
        const run = newRun()
        expect(await log.append(run, 1, 1, deltas('a', 'b'))).toEqual({ outcome: 'appended' })
        expect(await log.append(run, 1, 3, [completed])).toEqual({ outcome: 'appended' })
        expect((await other.read(run, null)).events).toEqual([
          { cursor: { epoch: 1, seq: 1 }, event: { type: 'TextDelta', text: 'a' } },
          { cursor: { epoch: 1, seq: 2 }, event: { type: 'TextDelta', text: 'b' } },
          { cursor: { epoch: 1, seq: 3 }, event: completed },
        ])
      })

      test('keeps any text', async () => {
        const { log, other } = await open()
        const run = newRun()
        const text = '"\\\r\n\u0000\u2028 }]{r:x} %d %s 🧱 é \ud83e\uddf1'
        const received = await follow(other, run)
        await log.append(run, 1, 1, deltas(text, ''))
        expect((await other.read(run, null)).events.map(textOf)).toEqual([text, ''])
        await vi.waitFor(() => expect(received.map(textOf)).toEqual([text, '']))
      })

      test('skips what is already there, so that a batch can be sent again', async () => {
        const { log, other } = await open()
        const run = newRun()
        const received = await follow(other, run)
        await log.append(run, 1, 1, deltas('a', 'b'))
        const last = { epoch: 1, seq: 2 }
        expect(await log.append(run, 1, 1, deltas('a', 'b'))).toEqual({ outcome: 'duplicate', last })
        expect(await log.append(run, 1, 1, deltas('a'))).toEqual({ outcome: 'duplicate', last })
        expect(await log.append(run, 1, 2, deltas('b', 'c'))).toEqual({ outcome: 'appended' })
        expect(await log.append(run, 1, 4, deltas('end'))).toEqual({ outcome: 'appended' })
        expect((await log.read(run, null)).events.map(textOf)).toEqual(['a', 'b', 'c', 'end'])
        await vi.waitFor(() => expect(received.map(textOf)).toEqual(['a', 'b', 'c', 'end']))
      })

      test('answers an empty batch as one that is already there', async () => {
        const { log } = await open()
        const run = newRun()
        expect(await log.append(run, 1, 1, [])).toEqual({ outcome: 'duplicate', last: origin })
        expect(await log.append(run, 1, 2, [])).toEqual({ outcome: 'gap', last: origin })
      })

      test('refuses a gap and says where the log stands', async () => {
        const { log } = await open()
        const run = newRun()
        expect(await log.append(run, 1, 2, deltas('b'))).toEqual({ outcome: 'gap', last: origin })
        await log.append(run, 1, 1, deltas('a'))
        expect(await log.append(run, 1, 3, deltas('c'))).toEqual({ outcome: 'gap', last: { epoch: 1, seq: 1 } })
        expect(await log.append(run, 2, 2, deltas('c'))).toEqual({ outcome: 'gap', last: { epoch: 1, seq: 1 } })
        expect((await log.read(run, null)).events.map(textOf)).toEqual(['a'])
      })

      test('starts again at 1 with a higher epoch and refuses the lower one from then on', async () => {
        const { log, other } = await open()
        const run = newRun()
        await log.append(run, 1, 1, deltas('a', 'b'))
        expect(await other.append(run, 3, 1, [{ type: 'StreamReset', text: '' }])).toEqual({ outcome: 'appended' })
        const fenced = { outcome: 'fenced', last: { epoch: 3, seq: 1 } }
        expect(await log.append(run, 1, 3, deltas('c'))).toEqual(fenced)
        expect(await log.append(run, 1, 1, deltas('a'))).toEqual(fenced)
        expect(await log.append(run, 2, 1, deltas('z'))).toEqual(fenced)
        expect((await log.read(run, null)).events.map(({ cursor }) => formatCursor(cursor))).toEqual(['1-1', '1-2', '3-1'])
      })

      test('is not affected by what its caller does to the events afterwards', async () => {
        const { log } = await open()
        const run = newRun()
        const delta = { type: 'TextDelta' as const, text: 'a' }
        const events: RunEvent[] = [delta]
        await log.append(run, 1, 1, events)
        delta.text = 'changed'
        events.length = 0
        expect((await log.read(run, null)).events.map(textOf)).toEqual(['a'])
      })
    })

    describe('read', () => {
      test('replays what follows each cursor', async () => {
        const { log } = await open()
        const run = newRun()
        await log.append(run, 1, 1, deltas('a', 'b', 'c'))
        await log.append(run, 2, 1, deltas('d', 'e'))
        const replays: [Cursor | null, string][] = [
          [null, 'abcde'],
          [origin, 'abcde'],
          [{ epoch: 1, seq: 0 }, 'abcde'],
          [{ epoch: 1, seq: 1 }, 'bcde'],
          [{ epoch: 1, seq: 3 }, 'de'],
          [{ epoch: 2, seq: 0 }, 'de'],
          [{ epoch: 2, seq: 1 }, 'e'],
          [{ epoch: 2, seq: 2 }, ''],
        ]
        for (const [after, text] of replays) {
          const { events, complete } = await log.read(run, after)
          expect([after, events.map(textOf).join(''), complete]).toEqual([after, text, true])
        }
      })

      test('is not complete when the log is empty or behind the cursor', async () => {
        const { log } = await open()
        const run = newRun()
        const nothing = { events: [], complete: false }
        expect(await log.read(run, null)).toEqual(nothing)
        expect(await log.read(run, { epoch: 1, seq: 1 })).toEqual(nothing)
        await log.append(run, 1, 1, deltas('a'))
        expect(await log.read(run, { epoch: 1, seq: 2 })).toEqual(nothing)
        expect(await log.read(run, { epoch: 2, seq: 1 })).toEqual(nothing)
      })

      test('is complete after a cursor that is gone when a later epoch opens with what follows', async () => {
        const { log } = await open()
        const run = newRun()
        await log.append(run, 2, 1, deltas('d', 'e'))
        expect(await log.read(run, { epoch: 1, seq: 7 })).toMatchObject({ complete: true })
        expect(await log.read(run, null)).toMatchObject({ complete: true })
      })

      test('sees nothing of the same run id under another tenant', { tags: ['rule-13'] }, async () => {
        const { log, other } = await open()
        const run = newRun()
        const foreign = { tenantId: newRun().tenantId, runId: run.runId }
        const received = await follow(other, foreign)
        await log.append(run, 1, 1, deltas('secret'))
        expect(await other.read(foreign, null)).toEqual({ events: [], complete: false })
        expect(await log.append(foreign, 1, 1, deltas('own'))).toEqual({ outcome: 'appended' })
        await vi.waitFor(() => expect(received.map(textOf)).toEqual(['own']))
      })
    })

    describe('limits', () => {
      test('drops the oldest events and then says that the replay is not complete', async () => {
        const { log } = await open({ ...defaultEventLogLimits, maxEvents: 100 })
        const run = newRun()
        for (let seq = 1; seq <= 1_000; seq += 50) await log.append(run, 1, seq, deltas(...Array<string>(50).fill('x')))
        const { events, complete } = await log.read(run, null)
        expect(complete).toBe(false)
        expect(events.length).toBeGreaterThanOrEqual(100)
        expect(events.length).toBeLessThan(300)
        expect(events.at(-1)?.cursor).toEqual({ epoch: 1, seq: 1_000 })
        expect(await log.read(run, { epoch: 1, seq: 5 })).toMatchObject({ complete: false })

        const oldest = events[0]?.cursor ?? origin
        expect(await log.read(run, { epoch: 1, seq: oldest.seq - 1 })).toEqual({ events, complete: true })
        expect(await log.read(run, { epoch: 1, seq: oldest.seq - 2 })).toEqual({ events, complete: false })
        expect(await log.read(run, oldest)).toEqual({ events: events.slice(1), complete: true })
      })

      test('forgets a run some time after its last append, and starts it again from nothing', async () => {
        const { log } = await open({ ...defaultEventLogLimits, liveTtl: 40 })
        const run = newRun()
        await log.append(run, 1, 1, deltas('a'))
        await vi.waitFor(async () => expect(await log.read(run, { epoch: 1, seq: 1 })).toEqual({ events: [], complete: false }))
        expect(await log.append(run, 1, 2, deltas('b'))).toEqual({ outcome: 'gap', last: origin })
        expect(await log.append(run, 2, 1, deltas('c'))).toEqual({ outcome: 'appended' })
      })

      test('counts that time from the last append', async () => {
        const { log } = await open({ ...defaultEventLogLimits, liveTtl: 600 })
        const run = newRun()
        await log.append(run, 1, 1, deltas('a'))
        await delay(350)
        await log.append(run, 1, 2, deltas('b'))
        await delay(350)
        expect((await log.read(run, null)).events.map(textOf)).toEqual(['a', 'b'])
      })

      test('forgets a run sooner once it has ended', async () => {
        const { log } = await open({ ...defaultEventLogLimits, endedTtl: 40 })
        const [live, ended] = [newRun(), newRun()]
        await log.append(live, 1, 1, deltas('a'))
        await log.append(ended, 1, 1, deltas('a'))
        await log.append(ended, 1, 2, [completed])
        await vi.waitFor(async () => expect((await log.read(ended, null)).events).toEqual([]))
        expect((await log.read(live, null)).events).toHaveLength(1)
      })
    })

    describe('subscribe', () => {
      test('delivers every append from the moment it resolves, and none from before', async () => {
        const { log, other } = await open()
        const run = newRun()
        await log.append(run, 1, 1, deltas('before'))
        const received = await follow(other, run)
        for (let seq = 2; seq <= 50; seq++) await log.append(run, 1, seq, deltas(String(seq)))
        await log.append(run, 2, 1, deltas('reset', 'again'))
        await vi.waitFor(() => expect(received).toHaveLength(51))
        expect(received).toEqual((await log.read(run, { epoch: 1, seq: 1 })).events)
      })

      test('delivers to many subscribers of a run, and to none of another run', { tags: ['rule-13'] }, async () => {
        const { log, other } = await open()
        const run = newRun()
        const all = await Promise.all(Array.from({ length: 200 }, () => follow(other, run)))
        const elsewhere = await follow(other, newRun())
        await log.append(run, 1, 1, deltas('a', 'b'))
        await vi.waitFor(() => {
          for (const received of all) expect(received.map(textOf)).toEqual(['a', 'b'])
        })
        expect(elsewhere).toEqual([])
      })

      test('delivers nothing after unsubscribing, and goes on for those who stay or come back', async () => {
        const { log, other } = await open()
        const run = newRun()
        const left: LoggedEvent[] = []
        const leave = await other.subscribe(run, (events) => left.push(...events), unexpected)
        const stayed = await follow(other, run)
        await leave()
        await leave()
        await log.append(run, 1, 1, deltas('a'))
        await vi.waitFor(() => expect(stayed.map(textOf)).toEqual(['a']))
        expect(left).toEqual([])

        const alone = newRun()
        const leaveAlone = await other.subscribe(alone, unexpected, unexpected)
        const [back] = await Promise.all([follow(other, alone), leaveAlone()])
        await log.append(alone, 1, 1, deltas('b'))
        await vi.waitFor(() => expect(back.map(textOf)).toEqual(['b']))

        const gone = newRun()
        const leaveGone = await other.subscribe(gone, unexpected, unexpected)
        const [, returned] = await Promise.all([leaveGone(), follow(other, gone)])
        await leaveGone()
        await log.append(gone, 1, 1, deltas('c'))
        await vi.waitFor(() => expect(returned.map(textOf)).toEqual(['c']))
      })

      test('reports what a subscriber throws, and still delivers to the others', async () => {
        const { log, other, errors } = await open()
        const run = newRun()
        const failure = new Error('from a subscriber')
        await other.subscribe(run, () => raise(failure), unexpected)
        const received = await follow(other, run)
        await log.append(run, 1, 1, deltas('a'))
        await vi.waitFor(() => expect(received.map(textOf)).toEqual(['a']))
        expect(errors).toEqual([failure])
      })

      test('hands out events that no subscriber can change for the others', async () => {
        const { log, other } = await open()
        const run = newRun()
        const received = await follow(other, run)
        await log.append(run, 1, 1, deltas('a'))
        await vi.waitFor(() => expect(received).toHaveLength(1))
        expect(() => Object.assign(received[0]?.event ?? {}, { text: 'changed' })).toThrow(TypeError)
      })
    })
  })
})

const completed: RunEvent = {
  type: 'RunCompleted',
  messageId: newId(),
  finishReason: 'STOP',
  usage: { inputTokens: 1, cachedInputTokens: 0, outputTokens: 2, reasoningTokens: 0, estimated: false },
}

function newRun(): RunRef {
  return { tenantId: tenantIdOf(newId()), runId: newId() }
}

function deltas(...texts: string[]): RunEvent[] {
  return texts.map((text) => ({ type: 'TextDelta', text }))
}

function textOf({ event }: LoggedEvent): string | null {
  return 'text' in event ? event.text : null
}

/** Subscribes for the rest of the test and returns the growing list of what was delivered. */
async function follow(log: EventLog, run: RunRef): Promise<LoggedEvent[]> {
  const received: LoggedEvent[] = []
  await log.subscribe(run, (events) => received.push(...events), unexpected)
  return received
}

function unexpected(): never {
  throw new Error('Nothing should have been delivered or lost here.')
}

function raise(error: Error): never {
  throw error
}
