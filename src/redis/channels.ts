import type { Unsubscribe } from '../domain/ports.ts'
import { type RedisConnection, replyTo } from './connection.ts'

type Listener<T> = { receive: (message: T) => void; lost: () => void }

type Channel<T> = { listeners: Set<Listener<T>>; subscribed: Promise<void> }

/** Sharded Pub/Sub with one Redis subscription per channel and process, however many listen here. */
export class RedisChannels<T> {
  readonly #connection: RedisConnection
  readonly #decode: (payload: string) => T
  readonly #channels = new Map<string, Channel<T>>()

  /** A message that `decode` throws on is reported to the connection's `onError` and dropped. */
  constructor(connection: RedisConnection, decode: (payload: string) => T) {
    this.#connection = connection
    this.#decode = decode
  }

  /**
   * Resolves once Redis has acknowledged the subscription; throws Unavailable when it does not.
   * `lost` is called after the subscription was lost, with its connection or its slot, and made again.
   */
  async subscribe(name: string, receive: (message: T) => void, lost: () => void): Promise<Unsubscribe> {
    const channel = this.#channels.get(name) ?? this.#open(name)
    const listener = { receive, lost }
    channel.listeners.add(listener)
    this.#channels.set(name, channel)
    const unsubscribe = () => this.#leave(name, channel, listener)
    try {
      await replyTo(channel.subscribed)
    } catch (error) {
      void unsubscribe()
      throw error
    }
    return unsubscribe
  }

  #open(name: string): Channel<T> {
    const listeners = new Set<Listener<T>>()
    const subscribed = this.#connection.subscriber.subscribe(
      name,
      (payload) => this.#deliver(name, listeners, payload),
      () => this.#notify(listeners, (listener) => listener.lost()),
    )
    return { listeners, subscribed }
  }

  async #leave(name: string, channel: Channel<T>, listener: Listener<T>): Promise<void> {
    channel.listeners.delete(listener)
    if (channel.listeners.size > 0 || this.#channels.get(name) !== channel) return
    this.#channels.delete(name)
    await this.#connection.subscriber.unsubscribe(name)
  }

  #deliver(name: string, listeners: Set<Listener<T>>, payload: string): void {
    try {
      const message = this.#decode(payload)
      this.#notify(listeners, (listener) => listener.receive(message))
    } catch (error) {
      this.#connection.onError(new Error(`Dropped a malformed message on ${name}.`, { cause: error }))
    }
  }

  #notify(listeners: Set<Listener<T>>, call: (listener: Listener<T>) => void): void {
    for (const listener of listeners) {
      try {
        call(listener)
      } catch (error) {
        this.#connection.onError(error)
      }
    }
  }
}
