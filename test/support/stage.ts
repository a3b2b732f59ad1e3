import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { seedAccounts } from './demo-accounts.ts'
import { liftLimits } from './limits.ts'
import { freePort } from './local-server.ts'
import { type PlatformProcess, startPlatformProcess } from './platform-process.ts'
import { createTestDatabase, type TestDatabase } from './postgres.ts'
import { type RedisServer, startRedisServer } from './redis-server.ts'

/** The model provider of a stage. */
type StageProvider = { url: string; close(): Promise<void> }

type DemoTenant = { name: string; adminKey: string; memberKey: string }

export type StageOptions = {
  /** Default 1. */
  apis?: number
  /** Default 1. */
  workers?: number
  /** Processes that are both at once. Default 0. */
  both?: number
  /** Default: one of the stage's own, on the run's server. */
  database?: Pick<TestDatabase, 'appUrl' | 'platformUrl' | 'adminUrl'>
  /** Environment variables of every process. What they say of Redis takes the place of the stage's own. */
  env?: Record<string, string>
}

/** One process of the platform. `killed` once somebody here ended it: any other end is its own. */
export type Actor = { role: 'api' | 'worker' | 'all'; url: string; process: PlatformProcess; killed: boolean }

/** The platform as it is run: processes of each role, real Postgres, real Redis, and a provider that is real but for its words. */
export class Stage<Provider extends StageProvider> {
  readonly provider: Provider
  readonly database: Pick<TestDatabase, 'appUrl' | 'platformUrl' | 'adminUrl'>
  /** Null when `env` brought another. */
  readonly redis: RedisServer | null
  readonly tenants: readonly [DemoTenant, DemoTenant]
  readonly actors: Actor[] = []
  readonly #env: Record<string, string>
  readonly #opened: AsyncDisposableStack

  private constructor(
    parts: Pick<Stage<Provider>, 'provider' | 'database' | 'redis' | 'tenants'>,
    env: Record<string, string>,
    opened: AsyncDisposableStack,
  ) {
    this.provider = parts.provider
    this.database = parts.database
    this.redis = parts.redis
    this.tenants = parts.tenants
    this.#env = env
    this.#opened = opened
  }

  /** Takes the provider over, and closes it. */
  static async open<Provider extends StageProvider>(
    provider: Provider,
    { apis = 1, workers = 1, both = 0, env: extra = {}, ...options }: StageOptions = {},
  ): Promise<Stage<Provider>> {
    await using opened = new AsyncDisposableStack()
    opened.defer(() => provider.close())
    const database = options.database ?? opened.adopt(await createTestDatabase(), (own) => own.drop())
    const redis = 'REDIS_URL' in extra ? null : opened.adopt(await startRedisServer(), (own) => own.stop())
    const dataDir = opened.adopt(await mkdtemp(join(tmpdir(), 'bulkhead-stage-')), (directory) =>
      rm(directory, { recursive: true, force: true }),
    )
    const env = {
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, OPENAI_BASE_URL: provider.url },
      ...{ BULKHEAD_DATA_DIR: dataDir, ...(redis && { REDIS_URL: redis.url }), ...extra },
    }
    const { tenants } = await seedAccounts(env)
    await liftLimits(database)
    const stage = new Stage({ provider, database, redis, tenants }, env, opened.move())
    const started = [
      ...Array.from({ length: apis }, () => stage.startApi()),
      ...Array.from({ length: workers }, () => stage.startWorker()),
      ...Array.from({ length: both }, () => stage.startBoth()),
    ]
    const failed = (await Promise.allSettled(started)).find(({ status }) => status === 'rejected')
    if (failed) {
      await stage[Symbol.asyncDispose]()
      throw (failed as PromiseRejectedResult).reason
    }
    return stage
  }

  get workers(): Actor[] {
    return this.actors.filter(({ role, killed }) => role !== 'api' && !killed)
  }

  get apis(): Actor[] {
    return this.actors.filter(({ role, killed }) => role !== 'worker' && !killed)
  }

  /** Resolves when it serves. A port of before keeps its URL. */
  async startApi({ port, env = {} }: { port?: number; env?: Record<string, string> } = {}): Promise<Actor> {
    return this.#start('api', { PORT: String(port ?? (await freePort())), ...env })
  }

  startWorker(env: Record<string, string> = {}): Promise<Actor> {
    return this.#start('worker', env)
  }

  /** As `startApi`. */
  async startBoth({ port }: { port?: number } = {}): Promise<Actor> {
    return this.#start('all', { PORT: String(port ?? (await freePort())) })
  }

  async #start(role: Actor['role'], env: Record<string, string>): Promise<Actor> {
    const process = startPlatformProcess({ ...this.#env, ...env }, ['start', '--role', role])
    const actor: Actor = { role, process, url: '', killed: true }
    this.actors.push(actor)
    actor.url = await process.url
    actor.killed = false
    return actor
  }

  /** `kill -9`. */
  async kill(actor: Actor): Promise<void> {
    actor.killed = true
    await actor.process.stop('SIGKILL')
  }

  /** Those that ended although nobody here ended them, with what they said. */
  async fallen(): Promise<string[]> {
    const living = Symbol('living')
    const ends = await Promise.all(
      this.actors
        .filter(({ killed }) => !killed)
        .map(async ({ role, process }) => {
          const code = await Promise.race([process.exited, new Promise((resolve) => setTimeout(() => resolve(living), 10))])
          return code === living
            ? []
            : [`A process of the role ${role} ended with ${String(code)}: ${process.errors().slice(-2_000)}`]
        }),
    )
    return ends.flat()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.actors.map(async ({ process }) => {
        process.signal('SIGCONT')
        await process.stop()
      }),
    )
    await this.#opened.disposeAsync()
  }
}
