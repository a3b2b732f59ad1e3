import { Redis, type RedisOptions } from 'ioredis'
import { accessOf, addressOf, end, type RedisClients, type RedisTarget } from './target.ts'

type Target = Exclude<RedisTarget, { mode: 'cluster' }>

/** Opens connections to the one Redis, or to the master that the sentinels name at the time of each attempt to connect. */
export function openOneMaster(target: Target, settings: RedisOptions, onError: (error: unknown) => void): RedisClients {
  const options = target.mode === 'single' ? serverOptions(target) : sentinelOptions(target, settings)
  const open = (role: string) => new Redis({ ...settings, ...options, connectionName: `bulkhead-${role}` }).on('error', onError)
  const commands = open('commands')
  return {
    commands,
    shards: {
      nodes: () => ['master'],
      nodeOf: () => 'master',
      open: () => open('subscriber'),
      refresh: async () => undefined,
      onRefresh: () => undefined,
    },
    masters: () => [commands],
    close: () => end(commands),
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
