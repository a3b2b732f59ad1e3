import { joinTexts, type ReplyEvent } from './reply-event.ts'

/** What may wait for one follower: events, characters of text, and milliseconds since it last read. */
const mostEvents = 1_000
const mostText = 1_048_576
const longestWait = 30_000

/**
 * What waits for a follower to read it. Neighbouring texts are one event. Too much of it, or none of it read for too long,
 * and the follower lags: what waits is dropped for one Lagged, which says where to go on, and nothing more is taken. Who has read
 * nothing yet would come back to the same place, and gets what waits before the Lagged. An event that waits alone may be of any size.
 */
export class ReplyQueue {
  #events: ReplyEvent[] = []
  #text = 0
  #lastRead = performance.now()
  #lastCursor: string
  #hasRead = false
  #ended = false
  #failure: Error | null = null
  /** Tells who waits for an event. */
  #wake: () => void = () => undefined

  /** `after` is the cursor to go on from when nothing was read. */
  constructor(after: string) {
    this.#lastCursor = after
  }

  /** Whether nothing more is taken. */
  get ended(): boolean {
    return this.#ended
  }

  push(event: ReplyEvent): void {
    if (!this.#ended && this.#isTooMuch(event)) this.#lag()
    if (this.#ended) return
    const last = this.#events.at(-1)
    if (event.type === 'TextDelta' && last?.type === 'TextDelta') {
      this.#events[this.#events.length - 1] = joinTexts(last, event)
    } else {
      if (this.#events.length === 0) this.#lastRead = performance.now()
      this.#events.push(event)
    }
    this.#text += lengthOf(event)
    this.#wake()
  }

  /** Takes nothing more. What waits can still be read; after it, `failure` is thrown if there is one. */
  end(failure: Error | null = null): void {
    if (!this.#ended) this.#failure = failure
    this.#ended = true
    this.#wake()
  }

  /** The next event, as soon as there is one; null at the end. */
  async next(): Promise<ReplyEvent | null> {
    for (;;) {
      const event = this.take()
      if (event) return event
      if (this.#failure) throw this.#failure
      const arrival = this.arrival()
      if (!arrival) return null
      await arrival
    }
  }

  /** The next event if one waits; else null. */
  take(): ReplyEvent | null {
    const event = this.#events.shift()
    if (!event) return null
    // What comes to an empty queue waits from then on.
    if (this.#events.length > 0) this.#lastRead = performance.now()
    this.#lastCursor = event.cursor
    this.#hasRead = true
    this.#text -= lengthOf(event)
    return event
  }

  /** Resolves once an event waits, or none will come. Null when there is nothing to wait for. One waits at a time. */
  arrival(): Promise<void> | null {
    if (this.#events.length > 0 || this.#ended) return null
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  /** Whether it is, together with what waits. */
  #isTooMuch(event: ReplyEvent): boolean {
    const last = this.#events.at(-1)
    if (!last) return false
    const length = lengthOf(event)
    const isOneMore = event.type !== 'TextDelta' || last.type !== 'TextDelta'
    return (
      (isOneMore && this.#events.length >= mostEvents) ||
      (length > 0 && this.#text + length > mostText) ||
      performance.now() - this.#lastRead > longestWait
    )
  }

  #lag(): void {
    if (this.#hasRead) this.#events = []
    const resumeAfter = this.#events.at(-1)?.cursor ?? this.#lastCursor
    this.#events.push({ type: 'Lagged', cursor: resumeAfter, resumeAfter })
    this.end()
  }
}

function lengthOf(event: ReplyEvent): number {
  return 'text' in event ? event.text.length : 0
}
