import { Redis, type RedisOptions } from 'ioredis'
import { accessOf, addressOf, end, type RedisClients, type RedisTarget } from './target.ts'
import { batchWrites } from './write-batches.ts'

type Target = Exclude<RedisTarget, { mode: 'cluster' }>

/** Opens connections to the one Redis, or to the master that the sentinels name at the time of each attempt to connect. */
export function openOneMaster(target: Target, settings: RedisOptions, onError: (error: unknown) => void): RedisClients {
  const options = target.mode === 'single' ? serverOptions(target) : sentinelOptions(target, settings)
  const opened: Redis[] = []
  const open = (role: string) => {
    const redis = new Redis({ ...settings, ...options, connectionName: `bulkhead-${role}` }).on('error', onError)
    opened.push(redis)
    return redis
  }
  const commands = open('commands')
  batchWrites(commands)
  const leaveOldMaster = () => {
    // One that is being connected would never try again.
    for (const redis of opened) if (redis.status === 'ready') redis.disconnect(true)
  }
  const watches = target.mode === 'sentinel' ? watchSentinels(target, settings, leaveOldMaster, onError) : []
  return {
    commands,
    shards: {
      nodes: () => ['master'],
      nodeOf: () => 'master',
      open: (_node, role) => open(role),
      refresh: async () => undefined,
      onRefresh: () => undefined,
    },
    masters: () => [commands],
    close: async () => {
      await Promise.all([commands, ...watches].map(end))
    },
  }
}

function serverOptions({ url }: Target & { mode: 'single' }): RedisOptions {
  return { ...accessOf(url), ...addressOf(url, 6_379) }
}

function sentinelOptions(
  { urls, master, sentinelPassword }: Target & { mode: 'sentinel' },
  settings: RedisOptions,
): RedisOptions {
  const [first = ''] = urls
  const { tls, ...access } = accessOf(first)
  return {
    ...access,
    ...(tls && { tls, sentinelTLS: tls, enableTLSForSentinelMode: true }),
    ...(sentinelPassword !== null && { sentinelPassword }),
    sentinels: urls.map((url) => addressOf(url, 26_379)),
    name: master,
    sentinelCommandTimeout: settings.commandTimeout,
    ...(settings.retryStrategy && { sentinelRetryStrategy: settings.retryStrategy }),
  }
}

/**
 * Listens to each sentinel for a switch to another master. The old one may live, and take what is written to it for some ten
 * seconds until it is made a replica and forgets that. The client's own detector prints to stderr when a sentinel is down.
 */
function watchSentinels(
  { urls, master, sentinelPassword }: Target & { mode: 'sentinel' },
  settings: RedisOptions,
  onSwitch: () => void,
  onError: (error: unknown) => void,
): Redis[] {
  return urls.map((url) => {
    const { tls } = accessOf(url)
    const options = {
      ...addressOf(url, 26_379),
      ...(sentinelPassword !== null && { password: sentinelPassword }),
      ...(tls && { tls }),
    }
    const sentinel = new Redis({ ...settings, ...options, connectionName: 'bulkhead-sentinel' })
    sentinel.on('error', onError)
    sentinel.on('ready', () => sentinel.subscribe('+switch-master').catch(onError))
    sentinel.on('message', (_channel: string, message: string) => {
      if (message.startsWith(`${master} `)) onSwitch()
    })
    return sentinel
  })
}
