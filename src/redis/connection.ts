import { Redis, type RedisOptions, ReplyError } from 'ioredis'
import { Unavailable } from '../domain/errors.ts'

export type ConnectOptions = {
  /** Given what goes wrong outside of any call: lost connections, failed attempts to reconnect, what a listener throws. */
  onError: (error: unknown) => void
  /** How long a command may take before it fails as Unavailable. Milliseconds, default 1,000. */
  commandTimeout?: number
  /** How long to wait for Redis at first. Milliseconds, default 5,000. */
  startTimeout?: number
  /** How often to make sure that the subscriber's connection is alive. Milliseconds, default 5,000. */
  pingInterval?: number
}

/** A process's two connections to one Redis (7.0 or later, for sharded Pub/Sub). */
export type RedisConnection = {
  commands: Redis
  /** Carries subscriptions only, and only sharded ones: ioredis loses count when the two kinds share a connection. */
  subscriber: Redis
  onError: (error: unknown) => void
  /** Closes both. What is still under way fails as Unavailable. */
  close(): Promise<void>
}

/** The longest pause between two attempts to reconnect, in milliseconds, and therefore what callers are told to wait. */
const maxReconnectDelay = 2_000
const retryAfterSeconds = maxReconnectDelay / 1_000

/**
 * Opens both connections and keeps them open: a lost one is opened again, for ever, after at most 2 seconds' pause.
 * Meanwhile commands fail at once instead of piling up, and one whose reply was lost is never sent twice.
 * Throws Unavailable, saying why, when they are not ready within `startTimeout`.
 */
export async function connectRedis(url: string, options: ConnectOptions): Promise<RedisConnection> {
  const { onError, commandTimeout = 1_000, startTimeout = 5_000, pingInterval = 5_000 } = options
  const settings: RedisOptions = {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    // Nothing waits to be retried. BullMQ wants it said.
    maxRetriesPerRequest: null,
    // RedisChannels does it, and learns whether it worked.
    autoResubscribe: false,
    connectTimeout: 2_000,
    disconnectTimeout: commandTimeout,
    commandTimeout,
    // Closes a connection that owes a reply and is silent, which TCP alone would notice after minutes.
    socketTimeout: 2 * commandTimeout,
    retryStrategy: (attempt) => Math.min(25 * 2 ** attempt, maxReconnectDelay) * (0.5 + Math.random() / 2),
  }
  let started = false
  let lastError: unknown
  const open = (role: string) => {
    const redis = new Redis(url, { ...settings, connectionName: `bulkhead-${role}` })
    return redis.on('error', (error) => {
      lastError = error
      if (started) onError(error)
    })
  }
  const commands = open('commands')
  const subscriber = open('subscriber')
  const pings = setInterval(() => {
    if (subscriber.status === 'ready') subscriber.ping().catch(onError)
  }, pingInterval).unref()
  const close = async () => {
    clearInterval(pings)
    await Promise.all([end(commands), end(subscriber)])
  }
  if (!(await allReady([commands, subscriber], startTimeout))) {
    await close()
    const reason = lastError instanceof Error ? lastError.message : 'no answer'
    throw new Unavailable(`Redis at ${new URL(url).host} cannot be used: ${reason}`, retryAfterSeconds, { cause: lastError })
  }
  started = true
  return { commands, subscriber, onError, close }
}

/** Replies that say "not now": they come from the state of the server and not from the command. */
const refusedForNow = /^(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b/

/** Waits for a command's reply. Throws Unavailable when Redis cannot be reached, is silent, or cannot serve it now. */
export async function replyTo<T>(command: Promise<T>): Promise<T> {
  try {
    return await command
  } catch (error) {
    if (error instanceof Error && error instanceof ReplyError && !refusedForNow.test(error.message)) throw error
    throw new Unavailable('Redis cannot be reached.', retryAfterSeconds, { cause: error })
  }
}

async function allReady(connections: Redis[], timeout: number): Promise<boolean> {
  const signal = AbortSignal.timeout(timeout)
  const ready = (redis: Redis) =>
    new Promise<boolean>((resolve) => {
      redis.once('ready', () => resolve(true))
      signal.addEventListener('abort', () => resolve(false))
    })
  return (await Promise.all(connections.map(ready))).every(Boolean)
}

async function end(redis: Redis): Promise<void> {
  // Between two attempts there is no socket whose end could be awaited.
  const open = redis.status !== 'reconnecting' && redis.status !== 'end'
  redis.disconnect()
  // Not events.once, which an error on the way would reject.
  if (open) await new Promise((resolve) => redis.once('end', resolve))
}
