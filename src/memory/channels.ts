import type { Unsubscribe } from '../domain/ports.ts'

type Listener<T> = { receive: (value: T) => void }

/** Publish and subscribe by name within the process. Listeners are called in order, after the publisher's current step. */
export class MemoryChannels<T> {
  readonly #listeners = new Map<string, Set<Listener<T>>>()
  readonly #onError: (error: unknown) => void

  /** `onError` is given what a listener throws; the other listeners are not affected. */
  constructor(onError: (error: unknown) => void) {
    this.#onError = onError
  }

  publish(name: string, value: T): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      queueMicrotask(() => {
        try {
          listener.receive(value)
        } catch (error) {
          this.#onError(error)
        }
      })
    }
  }

  subscribe(name: string, receive: (value: T) => void): Unsubscribe {
    const listener = { receive }
    const listeners = this.#listeners.get(name) ?? new Set()
    this.#listeners.set(name, listeners.add(listener))
    return async () => {
      listeners.delete(listener)
      if (listeners.size === 0 && this.#listeners.get(name) === listeners) this.#listeners.delete(name)
    }
  }
}
