import { rm } from 'node:fs/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { adminQuery } from '../support/database-url.ts'
import { graphqlClient } from '../support/graphql-client.ts'
import { type PgBouncer, pgBouncerAvailable, pgBouncerKeepsNames, pgBouncerSuite, startPgBouncer } from '../support/pgbouncer.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

const isAvailable = pgBouncerAvailable && redisAvailable
const suite = redisAvailable ? pgBouncerSuite('the platform behind PgBouncer') : redisSuite('the platform behind PgBouncer')

describe.runIf(isAvailable)(`${suite} in transaction mode, two connections for each database role`, () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string
  let bouncer: PgBouncer
  let env: Record<string, string>

  beforeAll(async () => {
    ;[database, redis, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    bouncer = await startPgBouncer(database.appUrl, { poolSize: 2, others: [database.platformUrl] })
    env = {
      DATABASE_URL: bouncer.url,
      DATABASE_PLATFORM_URL: bouncer.others[0] ?? '',
      DATABASE_STATEMENT_TIMEOUT: '0',
      REDIS_URL: redis.url,
      BULKHEAD_DATA_DIR: dataDir,
    }
  }, 60_000)

  afterAll(async () => {
    await bouncer?.stop()
    await redis?.stop()
    await database?.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  /** Starts a process of each role; the URL is that of the API. */
  async function start(
    names: 'on' | 'off',
    opened: AsyncDisposableStack,
  ): Promise<{ url: string; processes: PlatformProcess[] }> {
    const processes = ['api', 'worker', 'all'].map((role) => {
      const started = startPlatformProcess({ ...env, DATABASE_NAMED_STATEMENTS: names }, ['start', '--role', role])
      opened.defer(async () => void (await started.stop('SIGTERM')))
      return started
    })
    const [url = ''] = await Promise.all(processes.map((each) => each.url))
    return { url, processes }
  }

  /** Makes the demo tenants anew, through the pooler. */
  async function seed(names: 'on' | 'off'): Promise<string> {
    await adminQuery(database.adminUrl, 'truncate tenants cascade')
    const seeding = startPlatformProcess({ ...env, DATABASE_NAMED_STATEMENTS: names }, ['seed'])
    expect(await seeding.exited, seeding.errors()).toBe(0)
    return JSON.parse(seeding.output()).tenants[0].adminKey
  }

  const settings = pgBouncerKeepsNames() ? (['off', 'on'] as const) : (['off'] as const)

  it.each(settings)(
    'answers six messages at a time, with every role behind it and statement names %s',
    { timeout: 150_000 },
    async (names) => {
      await using opened = new AsyncDisposableStack()
      const key = await seed(names)
      const { url, processes } = await start(names, opened)
      const client = graphqlClient(url, key)
      opened.defer(() => client.close())
      const answer = async (): Promise<ReplyEvent[]> => {
        const { runId } = await sendMessage(client, 'Please count to 20')
        const events: ReplyEvent[] = []
        for await (const event of followRun(client, runId)) events.push(event)
        return events
      }
      const answers = await Promise.all(Array.from({ length: 6 }, answer))
      for (const events of answers) {
        expect(events.at(-1)).toMatchObject({ __typename: 'RunCompleted' })
        expect(shownText(events)).toBe(events.at(-1)?.message?.content)
      }
      // The pooler's own, and nobody's past it.
      expect(await countSessions(database.adminUrl)).toBeLessThanOrEqual(4)
      for (const { errors } of processes) expect(errors()).not.toMatch(/DatabaseError|prepared statement|DriverAdapterError/)
    },
  )
})

async function countSessions(adminUrl: string): Promise<number | undefined> {
  const client = new pg.Client({ connectionString: adminUrl })
  await client.connect()
  const { rows } = await client.query<{ count: number }>(
    "select count(*)::int from pg_stat_activity where usename like 'bulkhead_%' and datname = current_database()",
  )
  await client.end()
  return rows[0]?.count
}
