import type { TenantId } from '../domain/ids.ts'
import type { RunQueue, Unsubscribe } from '../domain/ports.ts'

type Take = (tenantId: TenantId) => Promise<boolean>

type Consumer = { take: Take; concurrency: number; running: Set<Promise<void>> }

/**
 * The wake-ups of a single process: a ring of tenants, each with its number of waiting wake-ups. A turn of the ring starts
 * one `take` per tenant, so that a tenant with thousands of runs delays another's by one run and no more.
 */
export class MemoryRunQueue implements RunQueue {
  /** In ring order: a Map iterates in order of insertion, and a tenant that had its turn is inserted again. */
  readonly #waiting = new Map<TenantId, number>()
  readonly #consumers = new Set<Consumer>()
  readonly #onError: (error: unknown, tenantId: TenantId) => void
  readonly #maxWaiting: number

  /**
   * `onError` is given what `take` throws; the wake-up counts as used then, and the sweeper finds the run if it still waits.
   * `maxWaiting` bounds a tenant's waiting wake-ups, and thereby the claims that find nothing after a burst. Below a
   * consumer's concurrency, a tenant alone may leave slots idle. Default 100.
   */
  constructor(options: { onError: (error: unknown, tenantId: TenantId) => void; maxWaiting?: number }) {
    this.#onError = options.onError
    this.#maxWaiting = options.maxWaiting ?? 100
  }

  async wake(tenantId: TenantId): Promise<void> {
    this.#waiting.set(tenantId, Math.min((this.#waiting.get(tenantId) ?? 0) + 1, this.#maxWaiting))
    for (const consumer of this.#consumers) this.#fill(consumer)
  }

  consume(take: Take, concurrency: number): Unsubscribe {
    const consumer: Consumer = { take, concurrency, running: new Set() }
    this.#consumers.add(consumer)
    this.#fill(consumer)
    return async () => {
      this.#consumers.delete(consumer)
      await Promise.all(consumer.running)
    }
  }

  #fill(consumer: Consumer): void {
    while (consumer.running.size < consumer.concurrency) {
      const tenantId = this.#next()
      if (!tenantId) return
      const running = this.#take(consumer, tenantId).then((more) => {
        consumer.running.delete(running)
        if (more) return this.wake(tenantId)
        if (this.#consumers.has(consumer)) this.#fill(consumer)
      })
      consumer.running.add(running)
    }
  }

  /** The tenant whose turn it is; it moves to the back of the ring, or out of it with its last wake-up. */
  #next(): TenantId | undefined {
    for (const [tenantId, count] of this.#waiting) {
      this.#waiting.delete(tenantId)
      if (count > 1) this.#waiting.set(tenantId, count - 1)
      return tenantId
    }
  }

  async #take(consumer: Consumer, tenantId: TenantId): Promise<boolean> {
    try {
      return await Promise.resolve(tenantId).then(consumer.take)
    } catch (error) {
      this.#onError(error, tenantId)
      return false
    }
  }
}
