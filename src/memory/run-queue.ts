import type { TenantId } from '../domain/ids.ts'
import type { RunQueue, Take, Taken, Unsubscribe } from '../domain/ports.ts'

type Consumer = { take: Take; concurrency: number; running: Set<Promise<void>> }

/**
 * The wake-ups of a single process: a ring of tenants. A turn of the ring starts one run per tenant, so that a tenant with
 * thousands of runs delays another's by one run and no more.
 */
export class MemoryRunQueue implements RunQueue {
  /** In ring order: a Set iterates in order of insertion, and a tenant that had its turn is inserted again. */
  readonly #waiting = new Set<TenantId>()
  readonly #consumers = new Set<Consumer>()
  readonly #onError: (error: unknown) => void

  /** `onError` is given what `take` throws; the wake-up counts as used then, and the sweeper finds the run if it still waits. */
  constructor(options: { onError: (error: unknown) => void }) {
    this.#onError = options.onError
  }

  async wake(tenantId: TenantId): Promise<void> {
    this.#waiting.add(tenantId)
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
    while (this.#consumers.has(consumer) && consumer.running.size < consumer.concurrency) {
      const [tenantId] = this.#waiting
      if (tenantId === undefined) return
      this.#waiting.delete(tenantId)
      const running = this.#serve(consumer, tenantId).finally(() => {
        consumer.running.delete(running)
        this.#fill(consumer)
      })
      consumer.running.add(running)
    }
  }

  /** From the wake-up to the end of the run that it led to. */
  async #serve(consumer: Consumer, tenantId: TenantId): Promise<void> {
    const taken = await this.#take(consumer, tenantId)
    if (!taken) return
    // Where one run waited another may; the tenant goes to the end of the ring.
    await this.wake(tenantId)
    await taken.ended
  }

  async #take(consumer: Consumer, tenantId: TenantId): Promise<Taken | null> {
    try {
      return await Promise.resolve(tenantId).then(consumer.take)
    } catch (error) {
      this.#onError(error)
      return null
    }
  }
}
