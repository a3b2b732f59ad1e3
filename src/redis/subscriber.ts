import { setTimeout as delay } from 'node:timers/promises'
import { type Redis, ReplyError } from 'ioredis'
import { end } from './target.ts'

/** The masters of one Redis, each named by a string: one, or those of a cluster. */
export type Shards = {
  /** All that there are now. */
  nodes(): string[]
  /** The one that serves a channel; undefined while none does. */
  nodeOf(channel: string): string | undefined
  /** `role` is what the server shows the connection as. */
  open(node: string, role: 'subscriber' | 'blocking'): Redis
  /** Finds out again, or fails to. */
  refresh(): Promise<void>
  /** Calls `listener` whenever it was found out again. */
  onRefresh(listener: () => void): void
}

type Subscription = {
  receive: (payload: string) => void
  lost: () => void
  /** The shard that it is on, or being made on; null when that was lost. */
  node: string | null
}

/** The pause between two attempts to restore what was lost, in milliseconds. An attempt only asks shards that are connected. */
const pauseBetweenAttempts = 100

/** How many times an answer that another shard serves the channel is followed. */
const maxRedirections = 3

/**
 * Sharded subscriptions, each on the shard that serves its channel, over one connection to each master. They outlive lost
 * connections and follow their slots; whoever made one is then told that it may have missed messages.
 *
 * The client's own subscribers for clusters restore subscriptions without telling, and not at all when the first attempt fails.
 */
export class Subscriber {
  readonly #shards: Shards
  readonly #onError: (error: unknown) => void
  readonly #connections = new Map<string, Redis>()
  readonly #subscriptions = new Map<string, Subscription>()
  readonly #closing = new AbortController()
  readonly #pings: NodeJS.Timeout
  #restoring: Promise<void> | null = null

  /** Makes sure every `pingInterval` milliseconds that its connections are alive. */
  constructor(shards: Shards, pingInterval: number, onError: (error: unknown) => void) {
    this.#shards = shards
    this.#onError = onError
    this.#pings = setInterval(() => this.#ping(), pingInterval).unref()
    shards.onRefresh(() => this.#align())
    this.#align()
  }

  /** Whether there are masters and all of them are connected. */
  get isReady(): boolean {
    const connections = [...this.#connections.values()]
    return connections.length > 0 && connections.every(({ status }) => status === 'ready')
  }

  /**
   * Resolves once Redis has acknowledged the subscription; rejects when it does not. `lost` is called each time it had to be made
   * again. A channel has one subscription at a time.
   */
  async subscribe(channel: string, receive: (payload: string) => void, lost: () => void): Promise<void> {
    const subscription: Subscription = { receive, lost, node: null }
    this.#subscriptions.set(channel, subscription)
    try {
      await this.#place(channel, subscription)
    } catch (error) {
      // It may have been made although its acknowledgement came too late.
      void this.#end(channel, subscription)
      throw error
    }
  }

  /** Resolves when nothing more will be delivered. */
  async unsubscribe(channel: string): Promise<void> {
    const subscription = this.#subscriptions.get(channel)
    if (!subscription) return
    await this.#end(channel, subscription)
  }

  async close(): Promise<void> {
    clearInterval(this.#pings)
    this.#closing.abort()
    this.#subscriptions.clear()
    await Promise.all([...this.#connections.values()].map(end))
    await this.#restoring
  }

  async #end(channel: string, subscription: Subscription): Promise<void> {
    if (this.#subscriptions.get(channel) === subscription) this.#subscriptions.delete(channel)
    const redis = this.#connections.get(subscription.node ?? '')
    subscription.node = null
    // Without a connection there is no subscription to end, and another one of the channel may have begun.
    if (redis?.status !== 'ready' || this.#subscriptions.has(channel)) return
    await redis.sunsubscribe(channel).catch(this.#onError)
  }

  /** Subscribes on the shard that serves the channel, whichever that turns out to be. */
  async #place(channel: string, subscription: Subscription): Promise<void> {
    let node = this.#shards.nodeOf(channel)
    for (let redirections = 0; ; redirections++) {
      if (node === undefined) throw new Error(`No shard serves ${channel}.`)
      // Before the answer: the shard may take it back in the same breath.
      subscription.node = node
      try {
        await this.#connectionTo(node).ssubscribe(channel)
        return
      } catch (error) {
        const moved = error instanceof Error && error instanceof ReplyError && /^MOVED \d+ (\S+)$/.exec(error.message)?.[1]
        if (!moved || redirections === maxRedirections) throw error
        void this.#shards.refresh()
        node = moved
      }
    }
  }

  #connectionTo(node: string): Redis {
    const existing = this.#connections.get(node)
    if (existing) return existing
    const redis = this.#shards.open(node, 'subscriber')
    this.#connections.set(node, redis)
    redis.on('smessage', (channel: string, payload: string) => this.#subscriptions.get(channel)?.receive(payload))
    redis.on('close', () => this.#loseAll((subscription) => subscription.node === node))
    // A shard says so when it ends a subscription since it no longer serves the slot, but not which one.
    redis.on('moved', () => {
      const held = heldBy(redis)
      this.#loseAll((subscription, channel) => subscription.node === node && !held.has(channel))
    })
    return redis
  }

  #loseAll(isLost: (subscription: Subscription, channel: string) => boolean): void {
    for (const [channel, subscription] of this.#subscriptions) {
      if (isLost(subscription, channel)) subscription.node = null
    }
    this.#restore()
  }

  /** A connection to each master and to nobody else, and each subscription with the one that serves it. */
  #align(): void {
    if (this.#closing.signal.aborted) return
    const nodes = new Set(this.#shards.nodes())
    for (const node of nodes) this.#connectionTo(node)
    for (const [node, redis] of this.#connections) {
      if (nodes.has(node)) continue
      this.#connections.delete(node)
      void end(redis)
    }
    this.#loseAll(({ node }, channel) => node !== null && node !== this.#shards.nodeOf(channel))
  }

  #restore(): void {
    this.#restoring ??= this.#restoreAll().finally(() => {
      this.#restoring = null
    })
  }

  async #restoreAll(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      const lost = [...this.#subscriptions].filter(([, { node }]) => node === null)
      if (lost.length === 0) return
      await Promise.all(lost.map(([channel, subscription]) => this.#restoreOne(channel, subscription)))
      if (!lost.some(([channel, subscription]) => this.#isLost(channel, subscription))) continue
      await delay(pauseBetweenAttempts, undefined, { signal }).catch(() => undefined)
      if (!signal.aborted) await this.#shards.refresh()
    }
  }

  #isLost(channel: string, subscription: Subscription): boolean {
    return this.#subscriptions.get(channel) === subscription && subscription.node === null
  }

  async #restoreOne(channel: string, subscription: Subscription): Promise<void> {
    const node = this.#shards.nodeOf(channel)
    if (node === undefined || this.#connectionTo(node).status !== 'ready') return
    try {
      await this.#place(channel, subscription)
    } catch (error) {
      subscription.node = null
      this.#onError(error)
      return
    }
    // Its last listener may have left in the meantime.
    if (this.#subscriptions.get(channel) === subscription) subscription.lost()
    else await this.#end(channel, subscription)
  }

  #ping(): void {
    for (const redis of this.#connections.values()) {
      if (redis.status === 'ready') redis.ping().catch(this.#onError)
    }
  }
}

/** The channels that a connection is subscribed to. */
function heldBy({ condition }: Redis): Set<string> {
  return new Set(condition?.subscriber ? condition.subscriber.channels('ssubscribe') : [])
}
