import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

describe.runIf(redisAvailable)(redisSuite('two processes on one Postgres and one Redis'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string
  let keys: { memberKey: string }
  let [first, second]: PlatformProcess[] = []

  beforeAll(async () => {
    ;[database, redis, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    const env = {
      DATABASE_URL: database.appUrl,
      DATABASE_PLATFORM_URL: database.platformUrl,
      REDIS_URL: redis.url,
      BULKHEAD_DATA_DIR: dataDir,
    }
    const seeded = await seedAccounts(env)
    keys = seeded.tenants[0]
    first = startPlatformProcess(env)
    second = startPlatformProcess(env)
    await Promise.all([first.url, second.url])
  }, 60_000)

  afterAll(async () => {
    await Promise.all([first?.stop(), second?.stop()])
    await redis.stop()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  it('follow on one the answer that was asked for on the other, from any cursor, byte for byte', async () => {
    const here = graphqlClient((await first?.url) ?? '', keys.memberKey)
    const there = graphqlClient((await second?.url) ?? '', keys.memberKey)
    const { runId } = await sendMessage(here, 'Please count to 40')
    const events: ReplyEvent[] = []
    for await (const event of followRun(there, runId)) events.push(event)
    const stored = events.at(-1)?.message?.content
    expect(events.length).toBeGreaterThan(5)
    expect(shownText(events)).toBe(stored)

    const middle = Math.floor(events.length / 2)
    const rest: ReplyEvent[] = []
    for await (const event of followRun(here, runId, events[middle]?.cursor)) rest.push(event)
    // What comes late may come in larger pieces.
    expect(shownText([...events.slice(0, middle + 1), ...rest])).toBe(stored)
    expect(rest.at(-1)).toEqual(events.at(-1))
    await Promise.all([here.close(), there.close()])
  })
})
