import type { TenantId } from '../domain/ids.ts'

export type KeyCacheOptions = {
  /** How long a key is kept, in milliseconds. Default 5 minutes. */
  ttl?: number
  /** Most keys that are kept. Default 1,000. */
  max?: number
}

type Entry<Key> = { tenantId: TenantId; key: Promise<Key>; expiry: NodeJS.Timeout }

/** Open keys, each under its tenant and its id. Those used least recently give way. */
export class KeyCache<Key> {
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry<Key>>()
  readonly #ttl: number
  readonly #max: number

  constructor({ ttl = 5 * 60_000, max = 1_000 }: KeyCacheOptions = {}) {
    this.#ttl = ttl
    this.#max = max
  }

  /** The key that is kept, or else what `open` answers, which is asked once for all who wait. A failure is not kept. */
  get(tenantId: TenantId, id: string, open: () => Promise<Key>): Promise<Key> {
    const name = `${tenantId}/${id}`
    const entry = this.#entries.get(name) ?? this.#enter(name, tenantId, open())
    this.#entries.delete(name)
    this.#entries.set(name, entry)
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#max) break
      this.#remove(oldest)
    }
    return entry.key
  }

  forget(tenantId: TenantId): void {
    for (const [name, entry] of this.#entries) if (entry.tenantId === tenantId) this.#remove(name)
  }

  #enter(name: string, tenantId: TenantId, key: Promise<Key>): Entry<Key> {
    // Not for as long as it is used: a key that was destroyed elsewhere must come to an end here.
    const expiry = setTimeout(() => this.#remove(name), this.#ttl).unref()
    const entry = { tenantId, key, expiry }
    key.catch(() => this.#entries.get(name) === entry && this.#remove(name))
    return entry
  }

  #remove(name: string): void {
    clearTimeout(this.#entries.get(name)?.expiry)
    this.#entries.delete(name)
  }
}
