import type { TenantId } from '../domain/ids.ts'

type Waiter = { number: number; grant: () => void }

/** A tenant that holds slots or waits for some. */
type Share = { weight: number; held: number; waiting: Set<Waiter>; lastGrant: number }

/**
 * A number of slots, shared by weighted max-min: a slot that is free goes to the tenant that holds the fewest for its weight; among
 * equals to the one whose last turn was the longest ago or who came first, and so round robin while each has none. What a tenant does not want, the
 * others share. Slots are not taken back: a share that grew while nobody else wanted it shrinks as its calls end.
 */
export class SlotPool {
  readonly #cap: number
  /** Those that neither hold nor wait are forgotten. */
  readonly #shares = new Map<TenantId, Share>()
  #used = 0
  #grants = 0
  #waiters = 0

  constructor(cap: number) {
    this.#cap = cap
  }

  /** Calls `grant` when the tenant's turn has come, which may be at once. What is returned gives up, or gives back. */
  enter(tenantId: TenantId, weight: number, grant: () => void): () => void {
    const share = this.#shareOf(tenantId, weight)
    const waiter = { number: ++this.#waiters, grant }
    share.waiting.add(waiter)
    this.#grantAll()
    let left = false
    return () => {
      if (left) return
      left = true
      if (!share.waiting.delete(waiter)) this.#giveBack(share)
      this.#forget(tenantId, share)
      this.#grantAll()
    }
  }

  /** Counts a slot that was granted elsewhere, also beyond the cap. What is returned gives it back. */
  adopt(tenantId: TenantId, weight: number): () => void {
    const share = this.#shareOf(tenantId, weight)
    share.held += 1
    this.#used += 1
    return () => {
      this.#giveBack(share)
      this.#forget(tenantId, share)
      this.#grantAll()
    }
  }

  #shareOf(tenantId: TenantId, weight: number): Share {
    const share = this.#shares.get(tenantId) ?? { weight, held: 0, waiting: new Set(), lastGrant: 0 }
    share.weight = weight
    this.#shares.set(tenantId, share)
    return share
  }

  #giveBack(share: Share): void {
    share.held -= 1
    this.#used -= 1
  }

  #forget(tenantId: TenantId, { held, waiting }: Share): void {
    if (held === 0 && waiting.size === 0) this.#shares.delete(tenantId)
  }

  #grantAll(): void {
    while (this.#used < this.#cap) {
      const share = this.#next()
      const [waiter] = share?.waiting ?? []
      if (!share || !waiter) return
      share.waiting.delete(waiter)
      share.held += 1
      share.lastGrant = ++this.#grants
      this.#used += 1
      waiter.grant()
    }
  }

  #next(): Share | null {
    let next: Share | null = null
    for (const share of this.#shares.values()) {
      if (share.waiting.size > 0 && (!next || goesBefore(share, next))) next = share
    }
    return next
  }
}

/** By cross-multiplication, so that equal shares are equal. */
function goesBefore(one: Share, other: Share): boolean {
  const difference = one.held * other.weight - other.held * one.weight
  if (difference !== 0) return difference < 0
  return (one.lastGrant - other.lastGrant || firstOf(one) - firstOf(other)) < 0
}

function firstOf({ waiting }: Share): number {
  const [first] = waiting
  return first?.number ?? 0
}
