import type { TenantId } from '../domain/ids.ts'
import type { RunQueue, Take, Taken, Unsubscribe } from '../domain/ports.ts'
import { type Host, type Place, placeAmong } from '../domain/run-place.ts'

type Consumer = { take: Take; concurrency: number; host: Host | null; running: Set<Promise<void>> }

/** A tenant's turn, and how many of its runs were taken in it. */
type Turn = { tenantId: TenantId; taken: number }

/**
 * The wake-ups of a single process: a ring of tenants. Once around it as many runs of each tenant are started as its weight says, so
 * that a tenant with thousands of runs delays another's by its weight and no more.
 */
export class MemoryRunQueue implements RunQueue {
  /** In ring order: a Set iterates in order of insertion, and a tenant that had its turn is inserted again. */
  readonly #waiting = new Set<TenantId>()
  /** Turns that are not over. They go on before another begins. */
  readonly #begun: Turn[] = []
  readonly #consumers = new Set<Consumer>()
  readonly #onError: (error: unknown) => void

  /** `onError` is given what `take` throws; the wake-up counts as used then, and the sweeper finds the run if it still waits. */
  constructor(options: { onError: (error: unknown) => void }) {
    this.#onError = options.onError
  }

  async wake(tenantId: TenantId): Promise<void> {
    this.#waiting.add(tenantId)
    this.#fillAll()
  }

  consume(take: Take, concurrency: number, host: Host | null = null): Unsubscribe {
    const consumer: Consumer = { take, concurrency, host, running: new Set() }
    this.#consumers.add(consumer)
    this.#fill(consumer)
    return async () => {
      this.#consumers.delete(consumer)
      await Promise.all(consumer.running)
    }
  }

  reserve(): Place | null {
    if (this.#waiting.size + this.#begun.length > 0) return null
    for (const consumer of this.#consumers) {
      const { host, running, concurrency } = consumer
      if (host && running.size < concurrency) return placeAmong(running, host, () => this.#fill(consumer))
    }
    return null
  }

  #fillAll(): void {
    for (const consumer of this.#consumers) this.#fill(consumer)
  }

  #fill(consumer: Consumer): void {
    while (this.#consumers.has(consumer) && consumer.running.size < consumer.concurrency) {
      const turn = this.#begun.shift() ?? this.#nextTurn()
      if (!turn) return
      const running = this.#serve(consumer, turn).finally(() => {
        consumer.running.delete(running)
        this.#fill(consumer)
      })
      consumer.running.add(running)
    }
  }

  #nextTurn(): Turn | null {
    const [tenantId] = this.#waiting
    if (tenantId === undefined) return null
    this.#waiting.delete(tenantId)
    return { tenantId, taken: 0 }
  }

  /** From the wake-up to the end of the run that it led to. */
  async #serve(consumer: Consumer, { tenantId, taken: before }: Turn): Promise<void> {
    const taken = await this.#take(consumer, tenantId)
    if (!taken) return
    if (!taken.othersWait) return taken.ended
    if (before + 1 < taken.weight) this.#begun.push({ tenantId, taken: before + 1 })
    else this.#waiting.add(tenantId)
    this.#fillAll()
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
