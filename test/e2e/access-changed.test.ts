// @module-tag rule-17
import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { tried } from '../isolation/tried.ts'
import { sendMessage } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { openEventSource } from '../support/event-source.ts'
import { type FakeUpstream, stallsAfter, startFakeUpstream } from '../support/fake-upstream.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { signIn } from '../support/raw-socket.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { noteTimes, revocations } from '../support/revocations.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { type SwallowingProxy, startSwallowingProxy } from '../support/swallowing-proxy.ts'

/** What rule 17 promises, in milliseconds. */
const promised = 1_000

describe.runIf(redisAvailable)(redisSuite('what is done on one process and open on another'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let proxy: SwallowingProxy
  let upstream: FakeUpstream
  let dataDir: string
  /** Serves the API alone; the other executes the runs and serves the API, too. */
  let here: PlatformProcess
  let there: PlatformProcess
  let urls: { here: string; there: string }
  let operator: GraphQLClient

  beforeAll(async () => {
    ;[database, redis, upstream, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      startFakeUpstream(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    proxy = await startSwallowingProxy(redis.url, '{signals}:c')
    upstream.otherwise(stallsAfter('Once upon a time'))
    const env = {
      DATABASE_URL: database.appUrl,
      DATABASE_PLATFORM_URL: database.platformUrl,
      BULKHEAD_DATA_DIR: dataDir,
      OPENAI_BASE_URL: upstream.url,
      OPENAI_API_KEY: 'test',
    }
    const seeded = await seedAccounts({ ...env, REDIS_URL: redis.url })
    here = startPlatformProcess({ ...env, REDIS_URL: redis.url, BULKHEAD_ROLE: 'api' })
    there = startPlatformProcess({ ...env, REDIS_URL: proxy.url })
    urls = { here: await here.url, there: await there.url }
    operator = graphqlClient(urls.here, seeded.operatorKey)
  }, 60_000)

  afterAll(async () => {
    await operator.close()
    await Promise.all([here.stop(), there.stop()])
    await Promise.all([upstream.close(), proxy.close(), redis.stop()])
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  /** A new tenant's id and its admin's key. */
  async function newTenant(): Promise<{ id: string; adminKey: string }> {
    const { createTenant } = await operator.data<{ createTenant: { tenant: { id: string }; adminKey: string } }>(
      'mutation ($name: String!) { createTenant(input: { name: $name, plan: PRO }) { ... on CreateTenantPayload { tenant { id } adminKey } } }',
      { name: `tenant ${crypto.randomUUID()}` },
    )
    return { id: createTenant.tenant.id, adminKey: createTenant.adminKey }
  }

  async function newKey(admin: GraphQLClient): Promise<{ id: string; key: string }> {
    const { createApiKey } = await admin.data<{ createApiKey: { apiKey: { id: string }; secret: string } }>(
      'mutation { createApiKey(input: { name: "doomed", role: MEMBER }) { ... on CreateApiKeyPayload { apiKey { id } secret } } }',
    )
    return { id: createApiKey.apiKey.id, key: createApiKey.secret }
  }

  /** A run under way over there, which a socket and a stream over there follow. Each resolves with when and how it ended. */
  async function openThere(key: string) {
    const client = graphqlClient(urls.there, key)
    const arriving = upstream.received(upstream.requests.length + 1)
    const { runId } = await sendMessage(client, 'Tell me a story.')
    const query = `subscription { agentReply(runId: "${runId}") { __typename } }`
    const socket = await signIn(urls.there, key)
    socket.send({ id: '1', type: 'subscribe', payload: { query } })
    const stream = await openEventSource(urls.there, key, { query })
    const [call] = await Promise.all([arriving, socket.next(), stream.next()])
    const ended = {
      socket: socket.closed.then((code) => ({ at: performance.now(), code })),
      stream: stream.rest().then(() => ({ at: performance.now() })),
      run: call.closed.then(() => ({ at: performance.now() })),
    }
    return { runId, client, ended, isOpen: () => socket.ws.readyState === socket.ws.OPEN && !call.aborted }
  }

  /** Does `shutOut`, and expects all that is open to end within a second of it. */
  async function expectEnd({ ended }: Awaited<ReturnType<typeof openThere>>, shutOut: () => Promise<unknown>) {
    const began = performance.now()
    await shutOut()
    const [socket, stream, run] = await Promise.all([ended.socket, ended.stream, ended.run])
    expect(socket.code).toBe(4401)
    const times = { socket: socket.at - began, stream: stream.at - began, run: run.at - began }
    for (const [what, milliseconds] of Object.entries(times)) expect(milliseconds, what).toBeLessThan(promised)
    return times
  }

  const runQuery = 'query ($id: ID!) { run(id: $id) { status failure { code } reply { content } } }'

  async function untilEnded(admin: GraphQLClient, id: string, code: string): Promise<void> {
    const ended = { run: { status: 'CANCELLED', failure: { code }, reply: { content: 'Once upon a time' } } }
    await expect.poll(() => admin.data(runQuery, { id })).toEqual(ended)
  }

  const ways = [
    { how: 'told by a signal', swallows: false },
    { how: 'although every signal is lost', swallows: true },
  ]

  it.for(ways)('ends with the key that is revoked, $how', { timeout: 120_000 }, async ({ how, swallows }, { task }) => {
    const { adminKey } = await newTenant()
    const admin = graphqlClient(urls.here, adminKey)
    const bystander = await openThere(adminKey)
    proxy.swallows = swallows
    const lost = proxy.swallowed
    const times = []
    for (let count = 0; count < revocations; count++) {
      const { id, key } = await newKey(admin)
      const open = await openThere(key)
      const revoke = 'mutation ($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { __typename } }'
      times.push(await expectEnd(open, () => admin.data(revoke, { id })))
      await untilEnded(admin, open.runId, 'API_KEY_REVOKED')
      expect((await open.client.request('{ viewer { role } }')).status).toBe(401)
    }
    expect(proxy.swallowed - lost >= revocations).toBe(swallows)
    expect(bystander.isOpen()).toBe(true)
    proxy.swallows = false
    await admin.data('mutation ($id: ID!) { cancelRun(input: { runId: $id }) { __typename } }', { id: bystander.runId })
    await bystander.ended.run
    tried(task, { cases: times.length, leaks: 0 })
    noteTimes(`a revoked key, ${how}`, times)
  })

  it.for(ways)(
    'ends with the tenant that is suspended, $how, and resuming lets it in again',
    { timeout: 120_000 },
    async ({ how, swallows }, { task }) => {
      proxy.swallows = swallows
      const lost = proxy.swallowed
      const times = []
      for (let count = 0; count < revocations; count++) {
        const { id, adminKey } = await newTenant()
        const open = await openThere(adminKey)
        const suspend = 'mutation ($id: ID!) { suspendTenant(input: { tenantId: $id, reason: "x" }) { __typename } }'
        times.push(await expectEnd(open, () => operator.data(suspend, { id })))
        expect((await open.client.request('{ viewer { role } }')).status).toBe(401)
        await operator.data('mutation ($id: ID!) { resumeTenant(input: { tenantId: $id }) { __typename } }', { id })
        await untilEnded(open.client, open.runId, 'TENANT_SUSPENDED')
      }
      expect(proxy.swallowed - lost >= revocations).toBe(swallows)
      proxy.swallows = false
      tried(task, { cases: times.length, leaks: 0 })
      noteTimes(`a suspended tenant, ${how}`, times)
    },
  )
})
