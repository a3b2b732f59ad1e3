import { Unavailable } from '../domain/errors.ts'
import type { TenantId } from '../domain/ids.ts'
import type { Limits } from './limits.ts'

/** When a client that found no seat may try again, in seconds. */
const retryAfterSeconds = 5

/** The subscriptions that are in progress here, over sockets and event streams together: so many, and so many of one tenant. */
export class SubscriptionSeats {
  readonly #limits: Pick<Limits, 'subscriptions' | 'subscriptionsPerTenant'>
  readonly #ofTenant = new Map<TenantId, number>()
  #taken = 0

  constructor(limits: Pick<Limits, 'subscriptions' | 'subscriptionsPerTenant'>) {
    this.#limits = limits
  }

  /** How many are taken. */
  get taken(): number {
    return this.#taken
  }

  /** Takes a seat for a subscription of the tenant. Returns what gives it back; a second call does nothing. Throws Unavailable when all are taken. */
  take(tenantId: TenantId): () => void {
    if (this.#taken >= this.#limits.subscriptions) {
      throw new Unavailable('This server carries as many streams as it can.', retryAfterSeconds)
    }
    const ofTenant = this.#ofTenant.get(tenantId) ?? 0
    if (ofTenant >= this.#limits.subscriptionsPerTenant) {
      throw new Unavailable('Your organisation has as many streams open here as it may.', retryAfterSeconds)
    }
    this.#taken += 1
    this.#ofTenant.set(tenantId, ofTenant + 1)
    let kept = true
    return () => {
      if (kept) this.#leave(tenantId)
      kept = false
    }
  }

  #leave(tenantId: TenantId): void {
    this.#taken -= 1
    const rest = (this.#ofTenant.get(tenantId) ?? 0) - 1
    if (rest > 0) this.#ofTenant.set(tenantId, rest)
    else this.#ofTenant.delete(tenantId)
  }
}
