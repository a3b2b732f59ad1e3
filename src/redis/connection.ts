import { setTimeout as delay } from 'node:timers/promises'
import { type Cluster, type Redis, type RedisOptions, ReplyError } from 'ioredis'
import { Unavailable } from '../domain/errors.ts'
import { openCluster } from './cluster.ts'
import { openOneMaster } from './one-master.ts'
import { type Shards, Subscriber } from './subscriber.ts'
import { hostsOf, type RedisClients, type RedisTarget } from './target.ts'

export type ConnectOptions = {
  /** Given what goes wrong outside of any call: lost connections, failed attempts to reconnect, what a listener throws. */
  onError: (error: unknown) => void
  /** How long a command may take before it fails as Unavailable. Milliseconds, default 1,000. */
  commandTimeout?: number
  /** How long to wait for Redis at first. Milliseconds, default 5,000. */
  startTimeout?: number
  /** How often to make sure that the subscriber's connections are alive. Milliseconds, default 5,000. */
  pingInterval?: number
}

/** A process's connections to one Redis (7.0 or later, for sharded Pub/Sub), be that one server or a cluster. */
export type RedisConnection = {
  commands: Redis | Cluster
  shards: Shards
  /** On connections that carry sharded subscriptions and nothing else: ioredis loses count when they share one with others. */
  subscriber: Subscriber
  /** Those that hold all keys between them. Throws Unavailable unless each is connected. */
  masters(): Redis[]
  onError: (error: unknown) => void
  /** Closes everything. What is still under way fails as Unavailable. */
  close(): Promise<void>
}

/** The longest pause between two attempts to reconnect, in milliseconds, and therefore what callers are told to wait. */
const maxReconnectDelay = 2_000
const retryAfterSeconds = maxReconnectDelay / 1_000

/**
 * Opens all connections and keeps them open: a lost one is opened again, for ever, after at most 2 seconds' pause, to whichever
 * server is the master then. Meanwhile commands fail at once instead of piling up, and one whose reply was lost is never sent twice.
 * Throws Unavailable, saying why, when they are not ready within `startTimeout`.
 */
export async function connectRedis(target: RedisTarget, options: ConnectOptions): Promise<RedisConnection> {
  const { onError, commandTimeout = 1_000, startTimeout = 5_000, pingInterval = 5_000 } = options
  let started = false
  let lastError: unknown
  const onConnectionError = (error: unknown) => {
    lastError = error
    if (started) onError(error)
  }
  const settings = settingsFor(commandTimeout)
  const clients =
    target.mode === 'cluster'
      ? openCluster(target, settings, onConnectionError)
      : openOneMaster(target, settings, onConnectionError)
  const subscriber = new Subscriber(clients.shards, pingInterval, onError)
  const close = async () => {
    await Promise.all([clients.close(), subscriber.close()])
  }
  const isReady = () => clients.commands.status === 'ready' && subscriber.isReady && connected(clients.masters()) !== null
  const refuse = async (reason: string) => {
    await close()
    throw new Unavailable(`Redis at ${hostsOf(target)} cannot be used: ${reason}`, retryAfterSeconds, { cause: lastError })
  }
  if (!(await within(startTimeout, isReady))) await refuse(lastError instanceof Error ? lastError.message : 'no answer')
  if (target.mode !== 'cluster' && (await isClusterNode(clients.commands)))
    await refuse('it is a node of a cluster. Set REDIS_MODE to cluster.')
  started = true
  const masters = () => {
    const nodes = connected(clients.masters())
    if (!nodes) throw new Unavailable('Redis cannot be reached.', retryAfterSeconds)
    return nodes
  }
  return { commands: clients.commands, shards: clients.shards, subscriber, masters, onError, close }
}

function settingsFor(commandTimeout: number): RedisOptions {
  return {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    // Nothing waits to be retried. BullMQ wants it said.
    maxRetriesPerRequest: null,
    // Subscriber does it, and learns whether it worked.
    autoResubscribe: false,
    connectTimeout: 2_000,
    disconnectTimeout: commandTimeout,
    commandTimeout,
    // Closes a connection that owes a reply and is silent, which TCP alone would notice after minutes.
    socketTimeout: 2 * commandTimeout,
    retryStrategy: (attempt) => Math.min(25 * 2 ** attempt, maxReconnectDelay) * (0.5 + Math.random() / 2),
    // A master that became a replica while we were connected: the next connection is made to the new master.
    reconnectOnError: (error) => error.message.startsWith('READONLY'),
  }
}

/** Replies that say "not now": they come from the state of the server and not from the command. */
const refusedForNow = /^(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b/

/** Waits for a command's reply. Throws Unavailable when Redis cannot be reached, is silent, or cannot serve it now. */
export async function replyTo<T>(command: Promise<T>): Promise<T> {
  try {
    return await command
  } catch (error) {
    if (error instanceof Error && error instanceof ReplyError && !refusedForNow.test(error.message)) throw error
    throw new Unavailable('Redis cannot be reached.', retryAfterSeconds, { cause: error })
  }
}

async function isClusterNode(redis: RedisClients['commands']): Promise<boolean> {
  return (await replyTo(redis.info('cluster'))).includes('cluster_enabled:1')
}

/** All of them, or null when one is not connected. */
function connected(nodes: (Redis | undefined)[]): Redis[] | null {
  const ready = nodes.filter((node) => node?.status === 'ready')
  return ready.length > 0 && ready.length === nodes.length ? (ready as Redis[]) : null
}

async function within(timeout: number, isReady: () => boolean): Promise<boolean> {
  const deadline = performance.now() + timeout
  while (!isReady()) {
    if (performance.now() > deadline) return false
    await delay(5)
  }
  return true
}
