import { joinTexts, type ReplyEvent } from './reply-event.ts'

/** What may wait for one follower: events, characters of text, and milliseconds since it last read. */
const mostEvents = 1_000
const mostText = 1_048_576
const longestWait = 30_000

/**
 * What waits for a follower to read it. Neighbouring texts are one event. Too much of it, or none of it read for too long,
 * and the follower lags: what waits is dropped for one Lagged, which says where to go on, and nothing more is taken.
 */
export class ReplyQueue {
  #events: ReplyEvent[] = []
  #text = 0
  #lastRead = performance.now()
  #lastCursor: string
  #ended = false
  #failure: Error | null = null
  #arrived = Promise.withResolvers<void>()

  /** `after` is the cursor to go on from when nothing was read. */
  constructor(after: string) {
    this.#lastCursor = after
  }

  /** Whether nothing more is taken. */
  get ended(): boolean {
    return this.#ended
  }

  push(event: ReplyEvent): void {
    if (this.#ended) return
    const last = this.#events.at(-1)
    if (event.type === 'TextDelta' && last?.type === 'TextDelta') {
      this.#events[this.#events.length - 1] = joinTexts(last, event)
    } else {
      if (this.#events.length === 0) this.#lastRead = performance.now()
      this.#events.push(event)
    }
    this.#text += 'text' in event ? event.text.length : 0
    const waited = performance.now() - this.#lastRead
    if (this.#events.length > mostEvents || this.#text > mostText || waited > longestWait) this.#lag()
    this.#arrived.resolve()
  }

  /** Takes nothing more. What waits can still be read; after it, `failure` is thrown if there is one. */
  end(failure: Error | null = null): void {
    if (!this.#ended) this.#failure = failure
    this.#ended = true
    this.#arrived.resolve()
  }

  /** The next event, as soon as there is one; null at the end. */
  async next(): Promise<ReplyEvent | null> {
    while (this.#events.length === 0) {
      if (this.#failure) throw this.#failure
      if (this.#ended) return null
      this.#arrived = Promise.withResolvers()
      await this.#arrived.promise
    }
    const event = this.#events.shift() as ReplyEvent
    this.#lastRead = performance.now()
    this.#lastCursor = event.cursor
    this.#text -= 'text' in event ? event.text.length : 0
    return event
  }

  #lag(): void {
    const resumeAfter = this.#lastCursor
    this.#events = [{ type: 'Lagged', cursor: resumeAfter, resumeAfter }]
    this.#text = 0
    this.end()
  }
}
