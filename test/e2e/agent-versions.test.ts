import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, sendMessage } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

type Version = { version: number }

async function active(client: GraphQLClient): Promise<number> {
  return (await client.data<{ agentConfig: Version }>('{ agentConfig { version } }')).agentConfig.version
}

/** A change, and the version that is active since it was answered. */
async function change(client: GraphQLClient, mutation: string): Promise<number> {
  const name = /^\w+/.exec(mutation)?.[0] ?? ''
  const payload = `${name.charAt(0).toUpperCase()}${name.slice(1)}Payload`
  const document = `mutation { result: ${mutation} { ... on ${payload} { agentConfig { id version } } ... on Problem { message } } }`
  return (await client.data<{ result: { agentConfig: Version } }>(document)).result.agentConfig.version
}

describe.runIf(redisAvailable)(redisSuite('a configuration that was changed on one of two processes'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string
  let processes: PlatformProcess[] = []
  let [first, second]: GraphQLClient[] = []

  beforeAll(async () => {
    ;[database, redis, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      makeScratchDirectory('bulkhead-versions-'),
    ])
    const env = {
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, REDIS_URL: redis.url },
      BULKHEAD_DATA_DIR: dataDir,
    }
    const { tenants } = await seedAccounts(env)
    processes = [startPlatformProcess(env), startPlatformProcess(env)]
    const urls = await Promise.all(processes.map(({ url }) => url))
    ;[first, second] = urls.map((url) => graphqlClient(url, tenants[0].adminKey))
  }, 60_000)

  afterAll(async () => {
    await Promise.all([first?.close(), second?.close()])
    await Promise.all(processes.map((process) => process.stop()))
    await redis.stop()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  it('is in use on both as soon as that was answered, also while Redis is lost and once it is back', async () => {
    if (!first || !second) throw new Error('The processes did not start.')
    const clients = [first, second]
    let expected = await active(first)
    const changes = [
      (client: GraphQLClient) => change(client, 'updateAgentConfig(input: { maxTurns: 3 })'),
      (client: GraphQLClient) => change(client, 'rollbackAgentConfig(input: { version: 1 })'),
      async (client: GraphQLClient) => {
        const { agentConfigVersions } = await client.data<{ agentConfigVersions: { edges: { node: { id: string } }[] } }>(
          '{ agentConfigVersions(first: 1) { edges { node { id } } } }',
        )
        return change(client, `publishAgentConfig(input: { agentConfigId: "${agentConfigVersions.edges[0]?.node.id}" })`)
      },
    ]
    const changeAll = async (afterEach: () => Promise<void>) => {
      for (const [index, make] of [...changes, ...changes].entries()) {
        expected = await make(clients[index % 2] as GraphQLClient)
        for (const client of clients) expect(await active(client)).toBe(expected)
        await afterEach()
      }
    }
    const runsUseIt = async () => {
      for (const [here, there] of [clients, clients.toReversed()] as [GraphQLClient, GraphQLClient][]) {
        const { runId } = await sendMessage(here, 'Hello')
        for await (const _ of followRun(there, runId));
        const { run } = await there.data<{ run: { configVersion: number } }>(`{ run(id: "${runId}") { configVersion } }`)
        expect(run.configVersion).toBe(expected)
      }
    }
    await changeAll(runsUseIt)
    await redis.stop()
    await changeAll(async () => undefined)
    await redis.restart()
    await expect
      .poll(
        () =>
          runsUseIt().then(
            () => true,
            () => false,
          ),
        { timeout: 20_000, interval: 500 },
      )
      .toBe(true)
  }, 60_000)
})
