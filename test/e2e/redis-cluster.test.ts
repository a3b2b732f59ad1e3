import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisCluster, startRedisCluster } from '../support/redis-cluster.ts'
import { redisAvailable, redisSuite } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

describe.runIf(redisAvailable)(redisSuite('two APIs and a worker on a Redis Cluster'), () => {
  let database: TestDatabase
  let cluster: RedisCluster
  let dataDir: string
  let processes: PlatformProcess[]
  let here: GraphQLClient
  let there: GraphQLClient

  beforeAll(async () => {
    ;[database, cluster, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisCluster({ nodeTimeout: 1_500 }),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    const env = {
      DATABASE_URL: database.appUrl,
      DATABASE_PLATFORM_URL: database.platformUrl,
      REDIS_URL: cluster.urls.join(),
      REDIS_MODE: 'cluster',
      BULKHEAD_DATA_DIR: dataDir,
    }
    const seeded = await seedAccounts(env)
    const [{ memberKey }] = seeded.tenants
    const roles = ['api', 'api', 'worker'].map((role) => startPlatformProcess(env, ['start', '--role', role]))
    const urls = await Promise.all(roles.map(({ url }) => url))
    processes = roles
    here = graphqlClient(urls[0] ?? '', memberKey)
    there = graphqlClient(urls[1] ?? '', memberKey)
  }, 90_000)

  afterAll(async () => {
    await Promise.all([here?.close(), there?.close()])
    await Promise.all((processes ?? []).map((each) => each.stop()))
    await cluster?.stop()
    await database?.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  it('show on one the whole answer that was asked for on the other, though a master dies in mid-stream', async () => {
    const { runId } = await sendMessage(here, 'Please count to 400')
    const events: ReplyEvent[] = []
    const following = (async () => {
      for await (const event of followRun(there, runId)) events.push(event)
    })()
    await vi.waitFor(() => expect(shownText(events)).toContain(' 20'), { timeout: 10_000 })
    const master = await cluster.masterOf((await streamOf(cluster)) ?? '')
    await master.stop()
    const shown = shownText(events).length
    await following
    expect(shown).toBeLessThan(shownText(events).length / 2)
    expect(shownText(events)).toBe(events.at(-1)?.message?.content)
  }, 60_000)
})

/** The key of the only run's stream. */
async function streamOf({ nodes }: RedisCluster): Promise<string | undefined> {
  const keys = await Promise.all(nodes.map(({ client }) => client.keys('{r:*}:s')))
  return keys.flat()[0]
}
