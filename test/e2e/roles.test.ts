import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { adminQuery } from '../support/database-url.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { selectRows } from '../support/tenant-rows.ts'

describe('a role of its own', () => {
  it.each(['api', 'worker'])('as %s needs Redis, and says so', async (role) => {
    const refused = startPlatformProcess({}, ['start', '--role', role])
    expect(await refused.exited).toBe(1)
    expect(refused.errors()).toBe(
      `bulkhead: A process of the role ${role} meets the others in Redis. Set REDIS_URL, or start with the role all.\n`,
    )
  })

  it('is one of three', async () => {
    const refused = startPlatformProcess({ BULKHEAD_ROLE: 'leader' })
    expect(await refused.exited).toBe(1)
    expect(refused.errors()).toBe('bulkhead: BULKHEAD_ROLE must be one of all, api, worker. Correct it and start again.\n')
  })
})

describe.runIf(redisAvailable)(redisSuite('an API and a worker'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string
  let env: Record<string, string>
  let api: PlatformProcess
  let client: GraphQLClient

  beforeAll(async () => {
    ;[database, redis, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    env = {
      DATABASE_URL: database.appUrl,
      DATABASE_PLATFORM_URL: database.platformUrl,
      REDIS_URL: redis.url,
      BULKHEAD_DATA_DIR: dataDir,
    }
    const seeded = await seedAccounts(env)
    api = startPlatformProcess({ ...env, BULKHEAD_ROLE: 'api' })
    client = graphqlClient(await api.url, seeded.tenants[0].memberKey)
  }, 60_000)

  afterAll(async () => {
    await client.close()
    await api.stop()
    await redis.stop()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  it('answer together: what waits is taken when a worker comes, and the API executes nothing', async () => {
    const { runId } = await sendMessage(client, 'Please count to 20')
    const following = (async () => {
      const events: ReplyEvent[] = []
      for await (const event of followRun(client, runId)) events.push(event)
      return events
    })()
    const status = 'query ($id: ID!) { run(id: $id) { status } }'
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect(await client.data(status, { id: runId })).toEqual({ run: { status: 'QUEUED' } })

    const worker = startPlatformProcess(env, ['start', '--role', 'worker'])
    const events = await following
    expect(shownText(events)).toBe(events.at(-1)?.message?.content)
    expect(await client.data(status, { id: runId })).toEqual({ run: { status: 'COMPLETED' } })

    const url = await worker.url
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
    expect((await fetch(`${url}/graphql?query={viewer{role}}`)).status).toBe(404)
    expect(await worker.stop('SIGTERM')).toBe(0)
  })

  it('leave it to a worker to sum what the ledger has', async () => {
    const yesterday = new Date(Date.now() - 86_400_000)
    await adminQuery(
      database.adminUrl,
      `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
         cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
       select gen_random_uuid(), id, id, id, default_agent_id, 1, 0, 0, 1, 'm', 1, 0, 1, 0, false, 77, 'USD', '${yesterday.toISOString()}'
       from tenants where name = 'acme'`,
    )
    const sums = () =>
      selectRows(database, 'select cost_nanos::int as cost from usage_rollups where bucket < now() - interval $$1 hour$$')
    expect(await sums()).toEqual([{ cost: null }])
    await using opened = new AsyncDisposableStack()
    const worker = startPlatformProcess(env, ['start', '--role', 'worker'])
    opened.defer(async () => void (await worker.stop('SIGTERM')))
    await expect.poll(sums, { timeout: 20_000 }).toEqual([{ cost: 77 }])
  })

  it('let one message take the place of another that the worker is answering', async () => {
    await using opened = new AsyncDisposableStack()
    const worker = startPlatformProcess(env, ['start', '--role', 'worker'])
    opened.defer(async () => void (await worker.stop('SIGTERM')))
    const { conversationId, runId } = await sendMessage(client, 'Please count to 900')
    const events: ReplyEvent[] = []
    const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
      ... on SendMessagePayload { run { id } } ... on Problem { code }
    } }`
    const input = { conversationId, content: 'Please count to 3' }
    let next: string | undefined
    for await (const event of followRun(client, runId)) {
      events.push(event)
      if (next !== undefined || event.__typename !== 'TextDelta') continue
      const refused = await client.data(send, { input: { ...input, whenBusy: 'REJECT' } })
      expect(refused).toEqual({ sendMessage: { code: 'CONFLICT' } })
      const { sendMessage } = await client.data<{ sendMessage: { run: { id: string } } }>(send, {
        input: { ...input, whenBusy: 'INTERRUPT' },
      })
      next = sendMessage.run.id
    }
    expect(events.at(-1)).toMatchObject({ __typename: 'RunInterrupted', text: shownText(events) })
    const stored = 'query ($id: ID!) { run(id: $id) { status reply { content } failure { code } } }'
    expect(await client.data(stored, { id: runId })).toEqual({
      run: { status: 'INTERRUPTED', reply: { content: shownText(events) }, failure: { code: 'SUPERSEDED' } },
    })
    const answer: ReplyEvent[] = []
    for await (const event of followRun(client, next ?? '')) answer.push(event)
    expect(answer.at(-1)).toMatchObject({ __typename: 'RunCompleted' })
  })
})
