import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { Shards } from './subscriber.ts'

/**
 * Where Redis is. User, password, database and TLS of the first URL hold for every node, also for those that are found later.
 * With Sentinel the URLs name the sentinels, which have a password of their own, or none.
 */
export type RedisTarget =
  | { mode: 'single'; url: string }
  | { mode: 'sentinel'; urls: string[]; master: string; sentinelPassword: string | null }
  | { mode: 'cluster'; urls: string[] }

/** What is opened to one Redis, whatever its kind: clients that connect by themselves, again and again. */
export type RedisClients = {
  commands: Redis | Cluster
  shards: Shards
  /** The connections for commands to those that hold all keys between them; undefined for one that there is no connection to. */
  masters(): (Redis | undefined)[]
  /** Closes `commands`, in whatever state it is. */
  close(): Promise<void>
}

/** The nodes that the target names, without passwords. */
export function hostsOf(target: RedisTarget): string {
  const urls = target.mode === 'single' ? [target.url] : target.urls
  return urls.map((url) => new URL(url).host).join(', ')
}

export function addressOf(url: string, defaultPort: number): { host: string; port: number } {
  const { hostname, port } = new URL(url)
  return { host: hostname.replace(/^\[|\]$/g, '') || 'localhost', port: port === '' ? defaultPort : Number(port) }
}

export function accessOf(url: string): Pick<RedisOptions, 'username' | 'password' | 'db' | 'tls'> {
  const { protocol, username, password, pathname } = new URL(url)
  const database = pathname.slice(1)
  return {
    ...(username !== '' && { username: decodeURIComponent(username) }),
    ...(password !== '' && { password: decodeURIComponent(password) }),
    ...(database !== '' && { db: Number(database) }),
    ...(protocol === 'rediss:' && { tls: {} }),
  }
}

/** Closes a connection in whatever state it is. */
export async function end(redis: Redis): Promise<void> {
  // Between two attempts there is no socket whose end could be awaited.
  const open = redis.status !== 'reconnecting' && redis.status !== 'end'
  redis.disconnect()
  // Not events.once, which an error on the way would reject.
  if (open) await new Promise((resolve) => redis.once('end', resolve))
}
