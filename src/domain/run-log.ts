import { setTimeout as delay } from 'node:timers/promises'
import type { AppendOutcome, EventLog, RunRef } from './ports.ts'
import { isTerminal, type RunEvent } from './run-event.ts'

/**
 * Each claim of a run has this many generations of its log, of which the first is where it starts to write. A log that was
 * lost is opened again in the next one: a cursor that was handed out never comes to mean something else.
 */
const generationsPerClaim = 1_000

/** The log's epoch for the n-th log of a claim. The last one is never written: see `storedGeneration`. */
export function logEpoch(claim: number, generation = 0): number {
  return claim * generationsPerClaim + generation
}

/** The claim that a log of this epoch is of. */
export function claimOf(epoch: number): number {
  return Math.floor(epoch / generationsPerClaim)
}

/** The generation in whose name readers tell what they read from Postgres: after everything that a claim can log. */
export const storedGeneration = generationsPerClaim - 1

/** A claim's first events: what earlier ones said and stored, unless there were none. */
export function openingEvents(claim: number, text: string): RunEvent[] {
  return claim > 1 ? [{ type: 'StreamReset', text }] : []
}

/**
 * How often text goes out, in milliseconds, and how much of it at once, in characters. The first piece goes at once, and what comes later goes
 * on a beat that all runs of a process have: their events leave in one write for each Redis, and arrive in as few reads. Each event costs
 * something whatever is in it, so a process sends no more than so many a second, of all its runs together: each on some of the beats. When it is busy all the
 * same, timers go off late: text then waits four times the last delay longer, up to the most.
 */
const flushEvery = 25
const mostPerSecond = 1_000
const mostBetween = 200
const flushAt = 1_024

/** The logs that are written here and now, and how many there were. */
const writing = new Set<object>()
let places = 0

/** A timer that is this late, in milliseconds, is not. */
const timerPrecision = 2

/**
 * Events from one restatement of the text to the next. A log keeps some thousands of events: whoever comes late finds one
 * among them to start from.
 */
const eventsPerRestatement = 1_000

function isOver(due: number): boolean {
  return performance.now() >= due - timerPrecision
}

/** The pause after a failed append, in milliseconds. */
const pauseAfterFailure = 1_000

/** How long `end` tries, and its own pause after a failure, in milliseconds. */
const longestEnd = 2_000
const pauseAtEnd = 100

export type RunLogOptions = {
  eventLog: EventLog
  run: RunRef
  claim: number
  /** What earlier claims said and stored. */
  text: string
  /** Called once when a later claim writes this run's log. */
  onFenced: () => void
  /** Given the first failure of each outage. Nothing else comes of it: what matters is in Postgres. */
  onError: (error: unknown) => void
}

/**
 * Writes one claim's events to the run's log, one append at a time, text in larger pieces the longer an append takes. Never
 * throws and never waits for the log: while it is away events are kept, and sent once it is back.
 */
export class RunLog {
  readonly #options: RunLogOptions
  /** Where its beats are among those of others. */
  readonly #place = places++
  #generation = 0
  #nextSeq = 1
  /** All text so far, sent or not. */
  #text: string
  #sinceRestatement = 0
  /** Not sent yet. Neighbouring texts are one event. */
  #pending: RunEvent[] = []
  /** Sent, and not known to have arrived: it must be repeated as it was, since it may have. */
  #unconfirmed: RunEvent[] = []
  #sending: Promise<void> | null = null
  #timer: NodeJS.Timeout | null = null
  #beat: PromiseWithResolvers<void> | null = null
  /** Its time has come: nothing was sent since, or ever. */
  #isDue = true
  #lastSent = Number.NEGATIVE_INFINITY
  #delay = 0
  #failing = false
  #closed = false

  constructor(options: RunLogOptions) {
    this.#options = options
    this.#text = options.text
    writing.add(this)
    for (const event of openingEvents(options.claim, options.text)) this.write(event)
  }

  write(event: RunEvent): void {
    if (this.#closed) return
    const last = this.#pending.at(-1)
    if (event.type === 'TextDelta') this.#text += event.text
    if (event.type === 'TextDelta' && last?.type === 'TextDelta') {
      this.#pending[this.#pending.length - 1] = { type: 'TextDelta', text: last.text + event.text }
    } else {
      this.#pending.push(event)
    }
    this.#schedule()
  }

  /** Writes the claim's last events, gives them two seconds to arrive, and closes. */
  async end(...events: RunEvent[]): Promise<void> {
    for (const event of events) this.write(event)
    const deadline = performance.now() + longestEnd
    while (this.#hasUnsent() && !this.#closed && performance.now() < deadline) {
      await this.#send()
      if (this.#failing) await delay(pauseAtEnd)
    }
    await this.close()
  }

  /** Forgets what was not sent. Nothing is sent from the moment this resolves. */
  async close(): Promise<void> {
    this.#closed = true
    writing.delete(this)
    this.#stopTimer()
    await this.#sending
  }

  #stopTimer(): void {
    if (this.#timer) clearTimeout(this.#timer)
    this.#timer = null
    this.#beat?.resolve()
    this.#beat = null
  }

  #hasUnsent(): boolean {
    return this.#pending.length + this.#unconfirmed.length > 0
  }

  /** Resolves when text goes out again: nobody has to bring more of it before. Null when that is now. */
  beat(): Promise<void> | null {
    const due = this.#due(this.#between())
    if (this.#closed || this.#failing || isOver(due)) return null
    this.#beat ??= Promise.withResolvers()
    this.#wakeAt(due)
    return this.#beat.promise
  }

  #schedule(): void {
    if (this.#closed || this.#sending || !this.#hasUnsent()) return
    const due = this.#failing ? this.#lastSent + pauseAfterFailure : this.#due(this.#isUrgent() ? 0 : this.#between())
    if (isOver(due)) void this.#send()
    else this.#wakeAt(due)
  }

  #wakeAt(due: number): void {
    // Whole milliseconds, so that those who wait as long share a timer.
    const wait = Math.ceil(due - performance.now())
    this.#timer ??= setTimeout(() => {
      this.#delay = Math.max(0, performance.now() - due - timerPrecision)
      this.#isDue = true
      this.#stopTimer()
      this.#schedule()
    }, wait)
  }

  /** When text goes out again, at the latest so long after it last did. Every run has beats of its own, so that they never all speak at once. */
  #due(pause: number): number {
    if (this.#isDue || pause === 0) return this.#lastSent
    const beats = Math.round(pause / flushEvery)
    const last = Math.round(this.#lastSent / flushEvery)
    const sinceOwn = (((last - this.#place) % beats) + beats) % beats
    return (last + beats - sinceOwn) * flushEvery
  }

  /** How long text waits for more. */
  #between(): number {
    const share = Math.ceil(((writing.size / mostPerSecond) * 1_000) / flushEvery) * flushEvery
    return Math.min(mostBetween, share + 4 * this.#delay)
  }

  /** Whether it should not wait for more text. */
  #isUrgent(): boolean {
    const [first] = this.#pending
    return this.#pending.length > 1 || first?.type !== 'TextDelta' || first.text.length >= flushAt
  }

  #send(): Promise<void> {
    this.#stopTimer()
    this.#sending ??= this.#append().finally(() => {
      this.#sending = null
      this.#schedule()
    })
    return this.#sending
  }

  async #append(): Promise<void> {
    if (this.#unconfirmed.length === 0) this.#unconfirmed = this.#takePending()
    const { eventLog, run, claim } = this.#options
    this.#lastSent = performance.now()
    this.#isDue = false
    try {
      this.#settle(await eventLog.append(run, logEpoch(claim, this.#generation), this.#nextSeq, this.#unconfirmed))
    } catch (error) {
      if (!this.#failing) this.#options.onError(error)
      this.#failing = true
    }
  }

  #takePending(): RunEvent[] {
    const events = this.#pending
    this.#pending = []
    this.#sinceRestatement += events.length
    const last = events.at(-1)
    if (this.#sinceRestatement >= eventsPerRestatement && last && !isTerminal(last)) {
      this.#sinceRestatement = 0
      events.push({ type: 'StreamReset', text: this.#text })
    }
    return events
  }

  #settle({ outcome }: AppendOutcome): void {
    this.#failing = false
    switch (outcome) {
      case 'appended':
      // The log had them from an earlier try.
      case 'duplicate':
        this.#nextSeq += this.#unconfirmed.length
        this.#unconfirmed = []
        break
      case 'gap':
        this.#reopen()
        break
      case 'fenced':
        this.#closed = true
        this.#options.onFenced()
        break
      default:
        outcome satisfies never
    }
  }

  /** The log lost what was in it: it begins again, in the next generation, with all text so far. */
  #reopen(): void {
    const others = [...this.#unconfirmed, ...this.#pending].filter(({ type }) => type !== 'TextDelta' && type !== 'StreamReset')
    this.#generation += 1
    this.#nextSeq = 1
    this.#pending = others
    this.#unconfirmed = [{ type: 'StreamReset', text: this.#text }]
    this.#sinceRestatement = 0
    if (this.#generation === storedGeneration) this.#closed = true
  }
}
