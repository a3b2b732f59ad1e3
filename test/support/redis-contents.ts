import { Redis } from 'ioredis'

/** A key with everything that it holds, or a command that was sent, or run by a script, with all its arguments. */
export type RedisEntry = { name: string; text: string }

/** Every key of every database of this Redis, whatever its type. */
export async function readAllOfRedis(url: string): Promise<RedisEntry[]> {
  const redis = new Redis(url)
  const entries: RedisEntry[] = []
  const used = [...(await redis.info('keyspace')).matchAll(/^db(\d+):/gm)].map(([, number]) => Number(number))
  for (const database of used) {
    await redis.select(database)
    for (let cursor = '0'; ; ) {
      const [next, names] = await redis.scan(cursor, 'COUNT', 1_000)
      for (const name of names) entries.push({ name, text: JSON.stringify(await contentOf(redis, name)) })
      if (next === '0') break
      cursor = next
    }
  }
  redis.disconnect()
  return entries
}

async function contentOf(redis: Redis, name: string): Promise<unknown> {
  const type = await redis.type(name)
  switch (type) {
    case 'string':
      return redis.get(name)
    case 'list':
      return redis.lrange(name, 0, -1)
    case 'set':
      return redis.smembers(name)
    case 'zset':
      return redis.call('ZRANGE', name, '0', '-1', 'WITHSCORES')
    case 'hash':
      return redis.hgetall(name)
    case 'stream':
      return [await redis.xrange(name, '-', '+'), await redis.xinfo('GROUPS', name)]
    case 'none':
      // It expired since it was listed.
      return null
    default:
      throw new Error(`Nobody knows how to read ${name}, which is of the type ${type}.`)
  }
}

/** Every command that this Redis executes from now on, those of scripts included, with each key and channel it names. */
export async function watchRedis(url: string): Promise<{ commands: RedisEntry[]; stop: () => void }> {
  const redis = new Redis(url, { retryStrategy: null })
  const monitor = await redis.monitor()
  // The server may stop before whoever watches it.
  for (const connection of [redis, monitor]) connection.on('error', () => undefined)
  const commands: RedisEntry[] = []
  monitor.on('monitor', (_time: string, args: string[]) => {
    const text = args.join(' ')
    for (const name of namesIn(args)) commands.push({ name, text })
  })
  return {
    commands,
    stop: () => {
      monitor.disconnect()
      redis.disconnect()
    },
  }
}

/** Commands that name no key and carry nothing of anybody. */
const keyless = new Set([
  ...[
    'auth',
    'client',
    'command',
    'config',
    'hello',
    'info',
    'monitor',
    'multi',
    'exec',
    'ping',
    'quit',
    'scan',
    'script',
    'select',
  ],
  ...['discard', 'echo', 'time', 'wait'],
])

/** The keys and channels that a command names. */
function namesIn([command = '', first = '', ...rest]: string[]): string[] {
  const name = command.toLowerCase()
  if (keyless.has(name)) return []
  if (/^(eval|evalsha|fcall)(_ro)?$/.test(name)) return rest.slice(1, 1 + Number(rest[0]))
  if (/^(del|unlink|exists|[ps]?subscribe|[ps]?unsubscribe)$/.test(name)) return [first, ...rest]
  if (/^(xinfo|xgroup|object|memory|debug)$/.test(name)) return [rest[0] ?? '']
  if (/^b[lrz](m?pop|popmin|popmax)$/.test(name)) return [first, ...rest].slice(0, -1)
  if (/^xread/.test(name)) {
    const streams = rest.slice(rest.findIndex((word) => word.toLowerCase() === 'streams') + 1)
    return streams.slice(0, streams.length / 2)
  }
  if (/^(b?rpoplpush|b?lmove|rename(nx)?|smove|copy)$/.test(name)) return [first, rest[0] ?? '']
  return [first]
}
