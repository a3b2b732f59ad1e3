import { formatCursor, type LoggedEvent, type RunEvent } from './run-event.ts'

/** What a follower of a run gets. Cursors are in the order of the events; going on after one misses nothing and repeats nothing. */
export type ReplyEvent = { cursor: string } & (
  | RunEvent
  | { type: 'Snapshot'; text: string; runId: string }
  | { type: 'Lagged'; resumeAfter: string }
)

type TextDelta = Extract<ReplyEvent, { type: 'TextDelta' }>

/*
 * Followers of one run are told the same objects, as long as they are told the same: what is made of an event is then made once,
 * however many follow. Nobody may change them.
 */

const told = new WeakMap<LoggedEvent, ReplyEvent>()
const joined = new WeakMap<TextDelta, { second: TextDelta; both: TextDelta }>()

/** What followers are told of a logged event: the same object for the same event. */
export function replyEventOf(logged: LoggedEvent): ReplyEvent {
  const known = told.get(logged)
  if (known) return known
  const event: ReplyEvent = { ...logged.event, cursor: formatCursor(logged.cursor) }
  told.set(logged, event)
  return event
}

/** Two texts that follow each other, as one event: the same object for the same two, unless the first was joined with another since. */
export function joinTexts(first: TextDelta, second: TextDelta): TextDelta {
  const known = joined.get(first)
  if (known?.second === second) return known.both
  const both: TextDelta = { ...second, text: first.text + second.text }
  joined.set(first, { second, both })
  return both
}
