import { NotFound, ValidationProblem } from './errors.ts'
import type { ReplyEvent } from './reply-event.ts'
import { ReplyQueue } from './reply-queue.ts'
import { findRun } from './run.ts'
import { formatCursor, origin, parseCursor } from './run-event.ts'
import { RunFollower } from './run-follower.ts'
import type { Scope } from './scope.ts'

export type { ReplyEvent } from './reply-event.ts'

export type FollowOptions = {
  /** How long a run may be silent before it is asked whether it has ended, in milliseconds. Default 5,000. */
  silence?: number
}

/**
 * The answer of a run: what came after the cursor `after`, or all when it is null, then what comes, until the run ends. Any
 * number may follow, early, late or again; the run does not notice. Nothing is missed and nothing repeated: what the log does
 * not hold any more is made good by a Snapshot. Who reads too slowly gets a Lagged and has to ask again.
 *
 * Before the first event throws NotFound, also for an end user when the run is another's, ValidationProblem when `after` is no
 * cursor, and Unavailable when the run is under way and cannot be followed. `return()` and the signal end it at once, also while
 * it waits.
 */
export function followRun(
  scope: Scope,
  runId: string,
  after: string | null,
  signal: AbortSignal,
  options: FollowOptions = {},
): AsyncGenerator<ReplyEvent, void, undefined> {
  const left = new AbortController()
  const events = follow(scope, runId, after, AbortSignal.any([signal, left.signal]), options)
  const finish = events.return.bind(events)
  // A generator that waits for its next event would only return after it.
  events.return = (value) => {
    left.abort()
    return finish(value)
  }
  return events
}

async function* follow(
  scope: Scope,
  runId: string,
  after: string | null,
  signal: AbortSignal,
  { silence = 5_000 }: FollowOptions,
): AsyncGenerator<ReplyEvent, void, undefined> {
  const place = after === null ? origin : parseCursor(after)
  if (!place) throw new ValidationProblem(['after'], 'after is not a cursor of this stream.')
  const run = await findRun(scope, runId)
  if (!run) throw new NotFound('run')

  if (signal.aborted) return
  const queue = new ReplyQueue(formatCursor(place))
  const follower = new RunFollower(scope, run, place, queue, silence)
  const leave = () => queue.end()
  signal.addEventListener('abort', leave)
  try {
    await follower.start()
    for (let event = await queue.next(); event && !signal.aborted; event = await queue.next()) yield event
  } finally {
    signal.removeEventListener('abort', leave)
    await follower.stop()
  }
}
