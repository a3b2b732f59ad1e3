import type { Unsubscribe } from '../domain/ports.ts'
import { type RedisConnection, replyTo } from './connection.ts'

type Listener<T> = { receive: (message: T) => void; lost: () => void }

type Channel<T> = { listeners: Set<Listener<T>>; subscribed: Promise<unknown> }

/**
 * Sharded Pub/Sub with one Redis subscription per channel and process, however many listen here.
 * Subscriptions outlive a lost connection.
 */
export class RedisChannels<T> {
  readonly #connection: RedisConnection
  readonly #decode: (payload: string) => T
  readonly #channels = new Map<string, Channel<T>>()

  /** A message that `decode` throws on is reported to the connection's `onError` and dropped. */
  constructor(connection: RedisConnection, decode: (payload: string) => T) {
    this.#connection = connection
    this.#decode = decode
    connection.subscriber.on('smessage', (name: string, payload: string) => this.#deliver(name, payload))
    connection.subscriber.on('ready', () => this.#resubscribe())
  }

  /**
   * Resolves once Redis has acknowledged the subscription; throws Unavailable when it does not.
   * `lost` is called after a lost connection was replaced and the channel subscribed again.
   */
  async subscribe(name: string, receive: (message: T) => void, lost: () => void): Promise<Unsubscribe> {
    const channel = this.#channels.get(name) ?? { listeners: new Set(), subscribed: this.#subscribe(name) }
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

  #subscribe(name: string): Promise<unknown> {
    return this.#connection.subscriber.ssubscribe(name)
  }

  async #leave(name: string, channel: Channel<T>, listener: Listener<T>): Promise<void> {
    channel.listeners.delete(listener)
    if (channel.listeners.size > 0 || this.#channels.get(name) !== channel) return
    this.#channels.delete(name)
    // Without a connection there is no subscription to end.
    if (this.#connection.subscriber.status !== 'ready') return
    await this.#connection.subscriber.sunsubscribe(name).catch(this.#connection.onError)
  }

  #resubscribe(): void {
    for (const [name, channel] of this.#channels) {
      channel.subscribed = this.#subscribe(name)
      channel.subscribed.then(() => this.#notify(channel, (listener) => listener.lost())).catch(this.#connection.onError)
    }
  }

  #deliver(name: string, payload: string): void {
    const channel = this.#channels.get(name)
    if (!channel) return
    try {
      const message = this.#decode(payload)
      this.#notify(channel, (listener) => listener.receive(message))
    } catch (error) {
      this.#connection.onError(new Error(`Dropped a malformed message on ${name}.`, { cause: error }))
    }
  }

  #notify(channel: Channel<T>, call: (listener: Listener<T>) => void): void {
    for (const listener of channel.listeners) {
      try {
        call(listener)
      } catch (error) {
        this.#connection.onError(error)
      }
    }
  }
}
