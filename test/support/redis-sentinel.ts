import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import type { RedisTarget } from '../../src/redis/target.ts'
import { freePorts } from './local-server.ts'
import { type RedisServer, startRedisServer } from './redis-server.ts'

/** A real master with a replica and the three sentinels that watch them, on loopback. */
export type RedisSentinel = {
  target: RedisTarget & { mode: 'sentinel' }
  /** The first is the master at first. */
  servers: [RedisServer, RedisServer]
  sentinels: RedisServer[]
  /** The port of the master, by what the last sentinel says. */
  masterPort(): Promise<number>
  /** Has the replica take over while the master lives. Resolves when the sentinels say so. */
  failover(): Promise<void>
  stop(): Promise<void>
}

export type SentinelOptions = {
  /** Of the servers. Default none. */
  password?: string
  /** Of the sentinels. Default none. */
  sentinelPassword?: string
  /** After how many milliseconds of silence a master is replaced. Default 1,000. */
  downAfter?: number
}

export async function startRedisSentinel(options: SentinelOptions = {}): Promise<RedisSentinel> {
  const { password, sentinelPassword, downAfter = 1_000 } = options
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-sentinel-'))
  const access: Record<string, string> = password === undefined ? {} : { requirepass: password, masterauth: password }
  const replication = { 'repl-diskless-sync-delay': 0, dir: directory }
  const master = await startRedisServer({ ...access, ...replication })
  const replica = await startRedisServer({ ...access, ...replication, replicaof: `127.0.0.1 ${master.port}` })
  await untilSynced(replica, password)

  const settings = [
    `sentinel monitor main 127.0.0.1 ${master.port} 2`,
    `sentinel down-after-milliseconds main ${downAfter}`,
    'sentinel failover-timeout main 5000',
    ...(password === undefined ? [] : [`sentinel auth-pass main ${password}`]),
    ...(sentinelPassword === undefined ? [] : [`requirepass ${sentinelPassword}`, `sentinel sentinel-pass ${sentinelPassword}`]),
  ]
  const sentinels = await Promise.all(
    (await freePorts(3)).map(async (port) => {
      // A sentinel writes down in its file what it learns.
      const file = join(directory, `sentinel-${port}.conf`)
      await writeFile(file, [`port ${port}`, `dir ${directory}`, ...settings, ''].join('\n'))
      return startRedisServer({ port }, file)
    }),
  )
  const client = new Redis(sentinels[2]?.port ?? 0, '127.0.0.1', {
    ...(sentinelPassword !== undefined && { password: sentinelPassword }),
    retryStrategy: () => 50,
  })
  client.on('error', () => undefined)
  const masterPort = async () => Number(((await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'main')) as string[])[1])
  await until(async () => /num-slaves,1,num-other-sentinels,2,/.test(String(await client.call('SENTINEL', 'MASTER', 'main'))))

  const credentials = password === undefined ? '' : `:${encodeURIComponent(password)}@`
  return {
    target: {
      mode: 'sentinel',
      urls: sentinels.map(({ port }) => `redis://${credentials}127.0.0.1:${port}`),
      master: 'main',
      sentinelPassword: sentinelPassword ?? null,
    },
    servers: [master, replica],
    sentinels,
    masterPort,
    failover: async () => {
      const before = await masterPort()
      await client.call('SENTINEL', 'FAILOVER', 'main')
      await until(async () => (await masterPort()) !== before)
    },
    stop: async () => {
      client.disconnect()
      await Promise.all([master, replica, ...sentinels].map((server) => server.stop()))
      await rm(directory, { recursive: true, force: true })
    },
  }
}

async function untilSynced({ port }: RedisServer, password?: string): Promise<void> {
  const client = new Redis(port, '127.0.0.1', password === undefined ? {} : { password })
  await until(async () => (await client.info('replication')).includes('master_link_status:up'))
  client.disconnect()
}

async function until(isTrue: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error('The sentinels did not settle within 30 seconds.')
    await delay(20)
  }
}
