/** The most recently used values, at most `entries`, under keys of at most `keyLength` characters: longer ones are not kept. */
export class DocumentCache<V> {
  readonly #entries: number
  readonly #keyLength: number
  readonly #values = new Map<string, V>()

  constructor(entries: number, keyLength: number) {
    this.#entries = entries
    this.#keyLength = keyLength
  }

  get(key: string): V | undefined {
    const value = this.#values.get(key)
    if (value === undefined) return undefined
    this.#values.delete(key)
    this.#values.set(key, value)
    return value
  }

  set(key: string, value: V): void {
    if (key.length > this.#keyLength) return
    this.#values.set(key, value)
    if (this.#values.size > this.#entries) this.#values.delete(this.#values.keys().next().value as string)
  }
}
