import { NotFound, ValidationProblem } from './errors.ts'
import type { ReplyEvent } from './reply-event.ts'
import { ReplyQueue } from './reply-queue.ts'
import { findRunToFollow } from './run.ts'
import { formatCursor, origin, parseCursor } from './run-event.ts'
import { RunFollower } from './run-follower.ts'
import type { Scope } from './scope.ts'

export type { ReplyEvent } from './reply-event.ts'

export type FollowOptions = {
  /** How long a run may be silent before it is asked, within as long again, whether it has ended. Milliseconds, default 5,000. */
  silence?: number
}

/**
 * What a follower reads. One reads on when the last event has come. Who has read the first may also `take` those that wait, and await the
 * `arrival` of more: a promise for each time that something comes, and not several for each event.
 */
type Following = AsyncIterableIterator<ReplyEvent, void, undefined> & {
  return(): Promise<IteratorResult<ReplyEvent, void>>
  /** The next event if one waits; else null. */
  take(): ReplyEvent | null
  /** Resolves once an event waits, or none will come. Null when `next` has to be asked: at first, and at the end. */
  arrival(): Promise<void> | null
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
  { silence = 5_000 }: FollowOptions = {},
): Following {
  const place = after === null ? origin : parseCursor(after)
  const queue = new ReplyQueue(formatCursor(place ?? origin))
  let follower: RunFollower | null = null
  let begun: Promise<void> | null = null
  let hasBegun = false
  let isOver = false

  async function begin(): Promise<void> {
    if (!place) throw new ValidationProblem(['after'], 'after is not a cursor of this stream.')
    const run = await findRunToFollow(scope, runId)
    if (!run) throw new NotFound('run')
    if (isOver) return
    follower = new RunFollower(scope, run, place, queue, silence)
    await follower.start()
  }
  function leave(): void {
    isOver = true
    queue.end()
  }
  async function end() {
    leave()
    signal.removeEventListener('abort', leave)
    await begun?.catch(() => undefined)
    await follower?.stop()
    return { done: true, value: undefined } as const
  }

  if (signal.aborted) leave()
  else signal.addEventListener('abort', leave)
  // By hand, since a generator takes some turns more for each event, and its return would wait for the next one.
  const events: Following = {
    [Symbol.asyncIterator]: () => events,
    async next() {
      if (isOver) return end()
      try {
        // An await for each event, of each follower, is one too many.
        if (!hasBegun) {
          begun ??= begin()
          await begun
          hasBegun = true
        }
        const event = await queue.next()
        if (event && !isOver) return { done: false, value: event }
      } catch (error) {
        await end()
        throw error
      }
      return end()
    },
    return: end,
    take: () => (isOver ? null : queue.take()),
    arrival: () => (isOver || !hasBegun ? null : queue.arrival()),
  }
  return events
}
