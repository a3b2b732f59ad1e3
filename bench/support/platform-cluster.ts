import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbeddedPostgres } from '../../src/data/embedded.ts'
import { migrate } from '../../src/data/migrate.ts'
import { readPostmaster } from '../../src/data/postgres-process.ts'
import { platformKeys } from '../../src/redis/key-space.ts'
import { freePorts } from '../../test/support/local-server.ts'
import { pgBouncerKeepsNames, startPgBouncer } from '../../test/support/pgbouncer.ts'
import { type PlatformProcess, startPlatformProcess } from '../../test/support/platform-process.ts'
import { type ClusterNode, type RedisCluster, startRedisCluster } from '../../test/support/redis-cluster.ts'
import { addTenants } from './platform-tenants.ts'

/** A part of the platform, by the processes that make it up, to be summed with their descendants. */
export type Component = { name: string; pids(): number[] }

/** Whatever has been killed and can be started again. */
type Killed = { restart(): Promise<void> }

/** The whole platform on loopback, each part in processes of its own: two APIs, two workers, six Redis, Postgres, PgBouncer. */
export type PlatformCluster = {
  components: Component[]
  apiUrls: string[]
  /** Of end users, each of a tenant of its own. */
  keys: string[]
  /** Of Postgres itself, for looking. */
  adminUrl: string
  redis: RedisCluster
  /** Whether statements have names behind this PgBouncer. */
  namedStatements: boolean
  killWorker(): Promise<Killed>
  killApi(): Promise<Killed>
  /** The master that serves the wake-ups. */
  killMaster(): Promise<Killed>
  /** What the platform's processes printed on stderr, each line once. */
  complaints(): string[]
  stop(): Promise<void>
}

/** After how many milliseconds of silence a Redis master is replaced: more than the README advises, so that a busy machine replaces none. */
const nodeTimeout = 5_000

/** Connections to Postgres for each database role. */
export const pooledConnections = 10

/** Runs that a worker executes at a time: with one worker killed, the other has room for all. */
const concurrency = 250

export async function startPlatformCluster(options: { tenants: number; upstreamUrl: string }): Promise<PlatformCluster> {
  await using opened = new AsyncDisposableStack()
  const dataDir = await mkdtemp(join(tmpdir(), 'bulkhead-bench-'))
  opened.defer(() => rm(dataDir, { recursive: true, force: true }))
  // When this runs as root, Postgres runs as another user, who has to reach its files.
  await chmod(dataDir, 0o755)
  // As a server is set up whose log is shipped to a standby.
  const settings = { wal_level: 'replica', shared_buffers: '256MB', max_wal_size: '1GB' }
  const postgres = await startEmbeddedPostgres({ dataDir, settings })
  opened.defer(() => rm(postgres.clusterDirectory, { recursive: true, force: true }))
  opened.defer(() => postgres.stop())
  const { adminUrl, appUrl, platformUrl } = postgres
  await migrate({ adminUrl, appUrl, platformUrl })
  const keyPepper = randomBytes(32).toString('hex')
  const keys = await addTenants(adminUrl, options.tenants, keyPepper)
  const bouncer = await startPgBouncer(appUrl, { poolSize: pooledConnections, others: [platformUrl] })
  opened.defer(() => bouncer.stop())
  const redis = await startRedisCluster({ nodeTimeout })
  opened.defer(() => redis.stop())

  const namedStatements = pgBouncerKeepsNames()
  const env = {
    NODE_ENV: 'production',
    HOST: '127.0.0.1',
    LOG_LEVEL: 'error',
    DATABASE_URL: bouncer.url,
    DATABASE_PLATFORM_URL: bouncer.others[0] ?? '',
    DATABASE_STATEMENT_TIMEOUT: '0',
    DATABASE_NAMED_STATEMENTS: namedStatements ? 'on' : 'off',
    REDIS_URL: redis.urls.join(),
    REDIS_MODE: 'cluster',
    OPENAI_BASE_URL: options.upstreamUrl,
    BULKHEAD_KEY_PEPPER: keyPepper,
    BULKHEAD_MASTER_KEY: randomBytes(32).toString('base64'),
    BULKHEAD_RUN_CONCURRENCY: String(concurrency),
  }
  const ports = await freePorts(4)
  const started: PlatformProcess[] = []
  const start = async (role: string, port = 0) => {
    const each = startPlatformProcess({ ...env, PORT: String(port) }, ['start', '--role', role])
    started.push(each)
    await each.url
    return each
  }
  const killAll = () => {
    for (const each of started) void each.stop('SIGKILL')
  }
  process.once('exit', killAll)
  opened.defer(async () => {
    await Promise.all(started.map((each) => each.stop('SIGTERM')))
    process.off('exit', killAll)
  })
  // One after the other: starting together on a busy machine, they would time out on each other.
  const apis = [await start('api', ports[0]), await start('api', ports[1])]
  const workers = [await start('worker', ports[2]), await start('worker', ports[3])]
  const kill = async (group: PlatformProcess[], role: string, port = 0): Promise<Killed> => {
    await group[0]?.stop('SIGKILL')
    return {
      async restart() {
        group[0] = await start(role, port)
      },
    }
  }

  const postmaster = await readPostmaster(postgres.clusterDirectory)
  const wakeUps = await redis.masterOf(platformKeys.wakeUps.prefix)
  const masters = await mastersOf(redis)
  const resources = opened.move()
  return {
    components: [
      { name: 'API', pids: () => apis.map(({ pid }) => pid) },
      { name: 'worker', pids: () => workers.map(({ pid }) => pid) },
      { name: 'Postgres', pids: () => [postmaster?.pid ?? 0] },
      { name: 'PgBouncer', pids: () => [bouncer.pid] },
      { name: 'Redis master with the wake-ups', pids: () => [wakeUps.pid()] },
      { name: 'Redis, the other masters', pids: () => masters.filter((node) => node !== wakeUps).map((node) => node.pid()) },
      { name: 'Redis, replicas', pids: () => redis.nodes.filter((node) => !masters.includes(node)).map((node) => node.pid()) },
    ],
    apiUrls: ports.slice(0, 2).map((port) => `http://127.0.0.1:${port}`),
    ...{ keys, adminUrl, redis, namedStatements },
    killWorker: () => kill(workers, 'worker', ports[2]),
    killApi: () => kill(apis, 'api', ports[0]),
    async killMaster() {
      const master = await redis.masterOf(platformKeys.wakeUps.prefix)
      await master.stop()
      return { restart: () => master.restart() }
    },
    complaints: () => [...new Set(started.flatMap((each) => each.errors().split('\n')).filter(Boolean))],
    stop: () => resources.disposeAsync(),
  }
}

async function mastersOf({ nodes }: RedisCluster): Promise<ClusterNode[]> {
  const roles = await Promise.all(nodes.map(async ({ client }) => String(await client.info('replication'))))
  return nodes.filter((_, index) => roles[index]?.includes('role:master'))
}
