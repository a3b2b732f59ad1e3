import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { AppendOutcome, Backlog, EventLog, RunRef } from '../../src/domain/ports.ts'
import { type Cursor, compareCursors, type LoggedEvent, origin, type RunEvent } from '../../src/domain/run-event.ts'

/** Two views of one log, as two instances of the platform have; in memory they are the same. */
export type EventLogPair = { log: EventLog; other: EventLog; errors: unknown[] }

/** The contract put as plainly as possible, one event at a time, without limits. */
class Model {
  entries: { cursor: Cursor; text: string }[] = []

  get last(): Cursor {
    return this.entries.at(-1)?.cursor ?? origin
  }

  /** The seq that comes next in `epoch`. */
  next(epoch: number): number {
    return epoch === this.last.epoch ? this.last.seq + 1 : 1
  }

  append(epoch: number, firstSeq: number, texts: string[]): AppendOutcome {
    const { last } = this
    if (epoch < last.epoch) return { outcome: 'fenced', last }
    if (firstSeq > this.next(epoch)) return { outcome: 'gap', last }
    for (const [index, text] of texts.entries()) {
      const seq = firstSeq + index
      if (seq === this.next(epoch)) this.entries.push({ cursor: { epoch, seq }, text })
    }
    return compareCursors(this.last, last) > 0 ? { outcome: 'appended' } : { outcome: 'duplicate', last }
  }

  read(after: Cursor): Backlog {
    const following = this.entries.filter(({ cursor }) => compareCursors(cursor, after) > 0)
    const present = this.entries.some(({ cursor }) => compareCursors(cursor, after) === 0)
    const joined = following[0]?.cursor.seq === 1 || following[0]?.cursor.seq === after.seq + 1
    return { events: following.map(({ cursor, text }) => ({ cursor, event: delta(text) })), complete: present || joined }
  }
}

/** `ahead` is the distance between the first seq and the one that would come next: below 0 repeats, above leaves a gap. */
const append = fc.record({
  kind: fc.constant('append' as const),
  epoch: fc.integer({ min: 1, max: 3 }),
  ahead: fc.integer({ min: -3, max: 1 }),
  count: fc.integer({ min: 0, max: 4 }),
})

const read = fc.record({
  kind: fc.constant('read' as const),
  after: fc.record({ epoch: fc.integer({ min: 0, max: 4 }), seq: fc.integer({ min: 0, max: 8 }) }),
})

const batchSizes = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 8 })

/** Compares a log with the model on random histories. */
export function describeEventLogModel(open: () => Promise<EventLogPair>): void {
  describe('any history', () => {
    test('of appends by several epochs leaves what the model says', async () => {
      const { log, other } = await open()
      await fc.assert(
        fc.asyncProperty(fc.array(fc.oneof(append, read), { maxLength: 25 }), async (history) => {
          const run = newRun()
          const model = new Model()
          for (const [step, operation] of history.entries()) {
            if (operation.kind === 'read') {
              expect(await other.read(run, operation.after)).toEqual(model.read(operation.after))
              continue
            }
            const { epoch, ahead, count } = operation
            const firstSeq = Math.max(1, model.next(epoch) + ahead)
            const texts = Array.from({ length: count }, (_, index) => `${step}.${index}`)
            expect(await log.append(run, epoch, firstSeq, texts.map(delta))).toEqual(model.append(epoch, firstSeq, texts))
          }
          expect(await other.read(run, null)).toEqual(model.read(origin))
        }),
        { numRuns: 100 },
      )
    })

    test('of concurrent writers leaves each epoch whole up to where a later one took over', async () => {
      const { log, other } = await open()
      await fc.assert(
        fc.asyncProperty(fc.array(batchSizes, { minLength: 2, maxLength: 4 }), async (writers) => {
          const run = newRun()
          const received: LoggedEvent[] = []
          const unsubscribe = await other.subscribe(run, (events) => received.push(...events), unexpectedLoss)
          const written = await Promise.all(
            writers.map((sizes, index) => writeAll(index % 2 ? log : other, run, index + 1, sizes)),
          )
          const { events, complete } = await other.read(run, null)
          expect(complete).toBe(true)
          expect(written.at(-1)).toBe(writers.at(-1)?.reduce((sum, size) => sum + size, 0))
          expect(events.map(({ cursor }) => cursor)).toEqual(
            written.flatMap((count, index) => Array.from({ length: count }, (_, seq) => ({ epoch: index + 1, seq: seq + 1 }))),
          )
          await vi.waitFor(() => expect(received).toEqual(events))
          await unsubscribe()
        }),
        { numRuns: 30 },
      )
    })
  })
}

/** Appends the batches one after the other until they end or the epoch is fenced; returns how many events were taken. */
async function writeAll(log: EventLog, run: RunRef, epoch: number, sizes: number[]): Promise<number> {
  let written = 0
  for (const size of sizes) {
    const { outcome } = await log.append(run, epoch, written + 1, Array<RunEvent>(size).fill(delta(`by ${epoch}`)))
    if (outcome === 'fenced') break
    expect(outcome).toBe('appended')
    written += size
  }
  return written
}

function newRun(): RunRef {
  return { tenantId: tenantIdOf(newId()), runId: newId() }
}

function delta(text: string): RunEvent {
  return { type: 'TextDelta', text }
}

function unexpectedLoss(): never {
  throw new Error('No connection was lost.')
}
