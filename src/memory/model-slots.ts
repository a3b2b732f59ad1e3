import { boundedModels, type ModelConcurrency, slotPoolOf } from '../domain/model-concurrency.ts'
import type { ModelSlots, SlotRequest } from '../domain/ports.ts'
import { SlotPool } from './slot-pool.ts'

/** The slots of a single process. */
export class MemoryModelSlots implements ModelSlots {
  readonly bounded: readonly string[] | null
  readonly #concurrency: ModelConcurrency
  readonly #pools = new Map<string, SlotPool>()

  constructor(concurrency: ModelConcurrency) {
    this.bounded = boundedModels(concurrency)
    this.#concurrency = concurrency
  }

  async acquire({ model, tenantId, weight }: SlotRequest, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted()
    const pool = this.#poolOf(model)
    if (!pool) return () => undefined
    const turn = Promise.withResolvers<void>()
    const leave = pool.enter(tenantId, weight, turn.resolve)
    const giveUp = () => {
      leave()
      turn.reject(signal.reason)
    }
    signal.addEventListener('abort', giveUp, { once: true })
    try {
      await turn.promise
    } finally {
      signal.removeEventListener('abort', giveUp)
    }
    // It was given up right after its turn had come.
    signal.throwIfAborted()
    return leave
  }

  /** Counts a slot of which another authority decides. What is returned gives it back. */
  adopt({ model, tenantId, weight }: SlotRequest): () => void {
    return this.#poolOf(model)?.adopt(tenantId, weight) ?? (() => undefined)
  }

  #poolOf(model: string): SlotPool | null {
    const pool = slotPoolOf(this.#concurrency, model)
    if (!pool) return null
    const open = this.#pools.get(pool.name) ?? new SlotPool(pool.cap)
    this.#pools.set(pool.name, open)
    return open
  }
}
