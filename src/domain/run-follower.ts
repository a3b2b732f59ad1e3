import type { Run } from '../data/generated/client.ts'
import { NotFound } from './errors.ts'
import { foldText } from './event-log.ts'
import type { RunRef } from './ports.ts'
import { type ReplyEvent, replyEventOf } from './reply-event.ts'
import type { ReplyQueue } from './reply-queue.ts'
import { findRun } from './run.ts'
import { readEnding } from './run-ending.ts'
import { type Cursor, compareCursors, formatCursor, isTerminal, type LoggedEvent, origin, parseCursor } from './run-event.ts'
import { type HubSeat, joinHub } from './run-hub.ts'
import { claimOf, logEpoch, storedGeneration } from './run-log.ts'
import { isPaused, readPause } from './run-pause.ts'
import { isFinished } from './run-status.ts'
import { textOf, turnsOf } from './run-turn.ts'
import type { Scope } from './scope.ts'

/**
 * Brings one run's events into one follower's queue, each once and in order, from the log and, when the log does not tell,
 * from Postgres. Ends the queue with the run.
 *
 * Subscribes first and reads second, so that nothing falls between the two; drops what it has had; reads again when events
 * are missing. What it tells from Postgres has cursors of the claim's last generation, which no log uses: such an ending comes
 * after everything that the claim logged.
 */
export class RunFollower {
  readonly #scope: Scope
  readonly #run: Run
  readonly #ref: RunRef
  readonly #queue: ReplyQueue
  readonly #silence: number
  /** The last event that was dealt with. */
  #last: Cursor
  /** Whether the follower has all text up to `#last`. If not, text waits for an event that restates all of it. */
  #isAttached = true
  /** The claim that the follower was told to have paused, so that it is not told again. */
  #paused = 0
  /** What arrives while the log is being read. */
  #arrived: LoggedEvent[] | null = null
  #seat: HubSeat
  /** Whether anything arrived since the timer last went off. */
  #isHeard = false
  #timer: NodeJS.Timeout | undefined

  constructor(scope: Scope, run: Run, after: Cursor, queue: ReplyQueue, silence: number) {
    this.#scope = scope
    this.#run = run
    this.#ref = { tenantId: scope.tenant.id, runId: run.id }
    this.#last = after
    this.#queue = queue
    this.#silence = silence
    // Until there is one, and of a run that has ended there is none.
    this.#seat = {
      read: (after) => scope.ports.eventLog.read(this.#ref, after),
      together: (_userId, look) => look(),
      leave: async () => undefined,
    }
  }

  /** Throws Unavailable when the run is under way and its log cannot be reached. */
  async start(): Promise<void> {
    if (isFinished(this.#run)) return this.#advance(this.#run)
    this.#seat = await joinHub(this.#scope.ports.eventLog, this.#ref, {
      receive: (events) => this.#receive(events),
      lost: () => void this.#catchUp(),
    })
    if (this.#queue.ended) return this.stop()
    this.#timer = setInterval(() => this.#listen(), this.#silence)
    // What it came to since it was read, the log tells, or the silence.
    await this.#catchUp(this.#run)
  }

  /** Ends the queue and leaves nothing behind. May be called again. */
  async stop(): Promise<void> {
    this.#queue.end()
    clearInterval(this.#timer)
    await this.#seat.leave()
  }

  #receive(events: readonly LoggedEvent[]): void {
    this.#isHeard = true
    if (this.#arrived) this.#arrived.push(...events)
    else if (!this.#acceptAll(events)) void this.#catchUp()
  }

  /** False when events are missing before one of these. */
  #acceptAll(events: readonly LoggedEvent[]): boolean {
    return events.every((event) => this.#accept(event))
  }

  #accept(logged: LoggedEvent): boolean {
    const { cursor, event } = logged
    if (compareCursors(cursor, this.#last) <= 0) return true
    // Each epoch of a log begins at 1 and restates what was before.
    const expected = cursor.epoch === this.#last.epoch ? this.#last.seq + 1 : 1
    if (cursor.seq !== expected) return false
    if (!this.#isAttached && (isTerminal(event) || event.type === 'RunPaused')) {
      void this.#check()
      return true
    }
    this.#last = cursor
    // A restatement in the middle of an epoch is for those who came late.
    const isNew = event.type !== 'StreamReset' || !this.#isAttached || cursor.seq === 1
    if (event.type === 'StreamReset') this.#isAttached = true
    if (this.#isAttached && isNew) this.#tell(replyEventOf(logged))
    return true
  }

  #tell(event: ReplyEvent): void {
    this.#queue.push(event)
    if (event.type === 'RunPaused') this.#paused = claimOf(parseCursor(event.cursor)?.epoch ?? 0)
    if (isTerminal(event)) this.#queue.end()
    if (this.#queue.ended) void this.stop()
  }

  #snapshot(cursor: Cursor, text: string): void {
    this.#tell({ type: 'Snapshot', text, runId: this.#run.id, cursor: formatCursor(cursor) })
  }

  /** Notices a silence, when there was one since it last listened. */
  #listen(): void {
    if (!this.#isHeard) void this.#check()
    this.#isHeard = false
  }

  /** Asks the run itself after a silence: its last event may have been lost. */
  async #check(): Promise<void> {
    try {
      const run = await this.#readRun()
      if (run) await this.#catchUp(run)
    } catch {
      // The database does not answer now: after the next silence it is asked again.
    }
  }

  /** Deals with what the follower has not had yet. What cannot be read now is read at the next event, or after the silence. */
  async #catchUp(run: Run | null = null): Promise<void> {
    if (this.#arrived || this.#queue.ended) return
    this.#arrived = []
    try {
      await this.#advance(run)
    } catch {
      // It is read again when more arrives, or after a silence.
      this.#isHeard = false
    }
    const arrived = this.#arrived
    this.#arrived = null
    if (arrived.length > 0) this.#receive(arrived)
  }

  /** From the log as far as that goes; from what is stored when it does not go on from here, or not to the end of `run`. */
  async #advance(run: Run | null): Promise<void> {
    const isAtEnd = run !== null && compareCursors(this.#last, storedEnd(run)) === 0
    if (isAtEnd && isFinished(run)) return this.stop()
    let isTold = false
    try {
      isTold = await this.#readLog(isAtEnd)
    } catch (error) {
      if (!run || !isFinished(run)) throw error
    }
    if (this.#queue.ended) return
    if (run && isFinished(run)) return this.#tellEnding(run)
    // Of a run that waits, the log may have lost that it does.
    if (isTold && !(run && isPaused(run))) return
    const current = run ?? (await this.#readRun())
    if (!current) return
    // It may have said and logged everything since the log was read.
    if (isFinished(current)) return this.#advance(current)
    await this.#tellStored(current)
  }

  /**
   * False when the log does not hold what comes next, nor anything that makes up for it. With `isAtEnd` the follower has had all that
   * was stored when the run paused: only what came after that is news.
   */
  async #readLog(isAtEnd: boolean): Promise<boolean> {
    const backlog = await this.#seat.read(this.#last)
    if (backlog.complete) return this.#acceptAll(backlog.events)
    if (isAtEnd && backlog.events.length === 0) return true
    const isWhole = compareCursors(this.#last, origin) === 0
    const { events, complete } = isWhole ? backlog : await this.#seat.read(origin)
    const last = events.at(-1)
    const base = complete ? 0 : events.findIndex(({ event }) => event.type === 'StreamReset')
    if (!last || base === -1) return false

    const { cursor, event } = last
    this.#last = cursor
    this.#isAttached = true
    this.#snapshot(isTerminal(event) ? { ...cursor, seq: cursor.seq - 1 } : cursor, foldText(events.slice(base)))
    if (isTerminal(event)) this.#tell(replyEventOf(last))
    return true
  }

  /** An unfinished run without a log: what is stored, until an event restates all text. */
  async #tellStored(run: Run): Promise<void> {
    const text = textOf(turnsOf(run))
    if (isPaused(run)) return this.#tellPause(run, text)
    // A run that has said nothing yet has no log either.
    if (text === '' && compareCursors(this.#last, origin) === 0) return
    this.#isAttached = false
    this.#last = { epoch: logEpoch(run.epoch), seq: 0 }
    this.#snapshot(this.#last, text)
  }

  /** All of a run that waits, unless the follower knows that it does. */
  async #tellPause(run: Run, text: string): Promise<void> {
    if (this.#isAttached && this.#paused === run.epoch) return
    const events = await readPause(this.#scope.db, run)
    const end = storedEnd(run)
    this.#isAttached = true
    this.#last = end
    const first = end.seq - events.length
    this.#snapshot({ ...end, seq: first }, text)
    for (const [index, event] of events.entries()) {
      this.#tell({ ...event, cursor: formatCursor({ ...end, seq: first + 1 + index }) })
    }
  }

  /** All of a finished run, unless the follower has had its last event. */
  async #tellEnding(run: Run): Promise<void> {
    if (!(await this.#hasHadEnd())) {
      const { text, event } = await readEnding(this.#scope.db, run)
      const end = storedEnd(run)
      this.#snapshot({ ...end, seq: end.seq - 1 }, text)
      this.#tell({ ...event, cursor: formatCursor(end) })
    }
    await this.stop()
  }

  /** Whether the last event that the follower had is the one that ended the log. */
  async #hasHadEnd(): Promise<boolean> {
    // Not from the hub: it may not have heard of the last event.
    const { events } = await this.#scope.ports.eventLog.read(this.#ref, null).catch(() => ({ events: [] }))
    const last = events.at(-1)
    return last !== undefined && isTerminal(last.event) && compareCursors(last.cursor, this.#last) === 0
  }

  /** Null, and the queue ends, when the run was deleted. */
  async #readRun(): Promise<Run | null> {
    const { userId } = this.#scope.actor
    const run = await this.#seat.together(userId, () => findRun(this.#scope, this.#run.id))
    if (!run) {
      this.#queue.end(new NotFound('run'))
      await this.stop()
    }
    return run
  }
}

/** More than the tool calls of one turn, of which each may have to be approved. */
const mostRequests = 1_000_000

/** The last event of a run that is finished or waits, when it is told from Postgres; the snapshot, and what it waits for, are before it. */
function storedEnd(run: Run): Cursor {
  return { epoch: logEpoch(run.epoch, storedGeneration), seq: isPaused(run) ? mostRequests : 2 }
}
