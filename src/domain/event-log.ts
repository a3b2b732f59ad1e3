import type { Backlog } from './ports.ts'
import { type Cursor, compareCursors, type LoggedEvent, type RunEvent } from './run-event.ts'

/** What is left of an erased run's log for a while. No cursor has a later epoch, so nothing can be appended; and it holds no content. */
export const erasedMark: LoggedEvent = {
  cursor: { epoch: 999_999_999, seq: 1 },
  event: {
    type: 'RunCancelled',
    text: '',
    usage: { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0, reasoningTokens: 0, estimated: false },
  },
}

/** What bounds every event log, wherever it is kept. */
export type EventLogLimits = {
  /** How long a run's events live after the last append. Milliseconds. */
  liveTtl: number
  /** The same once a terminal event was appended. Milliseconds. */
  endedTtl: number
  /** Events kept for one run; the oldest go first, some hundred later than this at most. */
  maxEvents: number
}

/** 15 minutes while live, 2 minutes after the end, 4,096 events. */
export const defaultEventLogLimits: EventLogLimits = { liveTtl: 15 * 60_000, endedTtl: 2 * 60_000, maxEvents: 4_096 }

/** Numbers `events` from `(epoch, firstSeq)` on. What it returns is shared by all readers of the process, hence frozen. */
export function numberEvents(epoch: number, firstSeq: number, events: readonly RunEvent[]): LoggedEvent[] {
  return events.map((event, index) => ({ cursor: { epoch, seq: firstSeq + index }, event: Object.freeze({ ...event }) }))
}

/**
 * The backlog after `after`, given what the log still holds from `after` on, that entry included.
 *
 * It is complete when the log holds the entry at `after`, or what directly follows: the next entry of its epoch, or the
 * opening of a later epoch, which restates all that came before. An empty log is never complete, since one that has had
 * no events looks the same as one that has expired.
 */
export function backlogAfter(after: Cursor, held: LoggedEvent[]): Backlog {
  const first = held[0]?.cursor
  if (!first) return { events: [], complete: false }
  if (compareCursors(first, after) === 0) return { events: held.slice(1), complete: true }
  return { events: held, complete: first.seq === (first.epoch === after.epoch ? after.seq + 1 : 1) }
}

/** The text that a follower of these events has. The first of them is the log's first, or restates what was before. */
export function foldText(events: readonly LoggedEvent[]): string {
  return events.reduce((text, { event }) => {
    if (event.type === 'TextDelta') return text + event.text
    return event.type === 'StreamReset' ? event.text : text
  }, '')
}
