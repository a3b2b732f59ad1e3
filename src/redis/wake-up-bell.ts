import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import type { Shards } from './subscriber.ts'
import { end } from './target.ts'

/** How soon to look at the queue again while nobody would tell, in milliseconds. */
const pauseWhileAway = 50

/**
 * Waits for somebody to add to a queue, on a connection of its own, since a command that waits holds up those behind it.
 *
 * BullMQ's own wait pauses for 5 seconds after a failure and waits for 10 from then on, which is longer than a command may take
 * here, so it fails again and never looks at the queue.
 */
export class WakeUpBell {
  readonly #shards: Shards
  readonly #marker: string
  #node: string | undefined
  #redis: Redis | undefined

  /** `marker` is the sorted set that BullMQ adds to whenever a worker should look at the queue. */
  constructor(shards: Shards, marker: string) {
    this.#shards = shards
    this.#marker = marker
  }

  /** Resolves when it rang, and after `seconds` in any case; sooner while it cannot be heard, which its connection reports. */
  async wait(seconds: number): Promise<void> {
    const redis = this.#connection()
    const rang = redis?.status === 'ready' && (await redis.bzpopmin(this.#marker, seconds).catch(() => false))
    if (rang === false) await delay(pauseWhileAway)
  }

  async close(): Promise<void> {
    if (this.#redis) await end(this.#redis)
  }

  /** To the server that has the queue now. */
  #connection(): Redis | undefined {
    const node = this.#shards.nodeOf(this.#marker)
    if (node === this.#node) return this.#redis
    if (this.#redis) void end(this.#redis)
    this.#node = node
    this.#redis = node === undefined ? undefined : this.#shards.open(node, 'blocking')
    return this.#redis
  }
}
