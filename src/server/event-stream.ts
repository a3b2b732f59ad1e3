import { Readable } from 'node:stream'
import type { ExecutionResult } from 'graphql'
import { publicResult } from './errors.ts'
import { type EventResult, eventId, written } from './shared-results.ts'

/** What a subscription delivers. */
export type EventResults = AsyncIterableIterator<EventResult>

/**
 * A subscription as server-sent events, in the "distinct connections mode" of the GraphQL over SSE protocol. An event of
 * agentReply has its cursor as id, which a client that reconnects sends back as `Last-Event-ID`. The subscription is read
 * no faster than the stream is.
 */
export class EventStream extends Readable {
  readonly #results: EventResults
  readonly #ping: NodeJS.Timeout
  #reading = false
  #over = false

  constructor(results: EventResults, keepAliveMs: number) {
    super({ highWaterMark: 16 * 1024 })
    this.#results = results
    // Some browsers show nothing of a response before its first byte.
    this.push(comment)
    this.#ping = setInterval(() => {
      if (this.readableLength === 0) this.push(comment)
    }, keepAliveMs)
  }

  /** Ends the stream without saying that the subscription is complete, so that the client connects again and goes on. */
  interrupt(): void {
    this.#end()
    void this.#results.return?.()
  }

  override async _read(): Promise<void> {
    // A ping makes Node ask again while an event is awaited. One at a time keeps them in order.
    if (this.#reading) return
    this.#reading = true
    try {
      const step = await this.#results.next()
      this.#reading = false
      if (this.#over) return
      this.push(step.done ? complete : formatResult(step.value))
      if (step.done) this.#end()
    } catch (error) {
      this.destroy(error as Error)
    }
  }

  override async _destroy(error: Error | null, done: (error?: Error | null) => void): Promise<void> {
    this.#over = true
    clearInterval(this.#ping)
    await this.#results.return?.()
    done(error)
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    clearInterval(this.#ping)
    this.push(null)
  }
}

const comment = ':\n\n'
const complete = 'event: complete\ndata:\n\n'

/** A single result, as a stream that ends at once. */
export function singleEvent(result: ExecutionResult): string {
  return formatResult(result) + complete
}

function formatResult(result: EventResult): string {
  const id = result[eventId] === undefined ? '' : `id: ${result[eventId]}\n`
  return `event: next\n${id}data: ${result[written]?.text ?? JSON.stringify(publicResult(result))}\n\n`
}
