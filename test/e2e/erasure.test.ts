import { rm } from 'node:fs/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { tenantTables } from '../../src/data/tenant-tables.ts'
import { ownerOf } from '../../src/redis/key-space.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { followRun, sendMessage } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { readAllOfRedis } from '../support/redis-contents.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

type Demo = { operatorKey: string; tenants: { name: string; adminKey: string; memberKey: string }[] }

const eraseTenant = `mutation ($input: EraseTenantInput!) { eraseTenant(input: $input) {
  ... on EraseTenantPayload { certificate { finishedAt found { kind count } erased { kind count } retained { kind count } } }
  ... on Problem { message }
} }`

/** What is left of a run's events. */
const mark = String.raw`type\":\"RunCancelled\",\"text\":\"\"`

describe.runIf(redisAvailable)(redisSuite('the erasure of a tenant'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string
  let demo: Demo
  let admin: pg.Client
  let env: Record<string, string>
  const processes: PlatformProcess[] = []
  const clients: GraphQLClient[] = []

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
    demo = await seedAccounts(env)
    admin = new pg.Client({ connectionString: database.adminUrl })
    await admin.connect()
  }, 60_000)

  afterAll(async () => {
    await Promise.all(clients.map((client) => client.close()))
    await Promise.all(processes.map((each) => each.stop()))
    await admin.end()
    await redis.stop()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  function start(): PlatformProcess {
    const started = startPlatformProcess(env)
    processes.push(started)
    return started
  }

  function clientOf(url: string, key: string): GraphQLClient {
    const client = graphqlClient(url, key)
    clients.push(client)
    return client
  }

  async function countOf(table: string, tenantId: string): Promise<number> {
    const { rows } = await admin.query<{ count: number }>(`select count(*)::int from ${table} where tenant_id = $1`, [tenantId])
    return rows[0]?.count ?? 0
  }

  async function idOf(name: string): Promise<string> {
    const { rows } = await admin.query<{ id: string }>('select id from tenants where name = $1', [name])
    return rows[0]?.id ?? ''
  }

  /** Adds rows to the run's conversation. */
  async function fill(tenantId: string, count: number): Promise<void> {
    await admin.query(
      `with run as (
         insert into runs (id, tenant_id, conversation_id, agent_id, config_version, model, status, finished_at)
         select gen_random_uuid(), tenant_id, conversation_id, agent_id, config_version, 'm', 'COMPLETED', now()
         from (select * from runs where tenant_id = $1 limit 1) r, generate_series(1, $2)
         returning *)
       insert into messages (id, tenant_id, conversation_id, run_id, role, content, tokens_used)
       select gen_random_uuid(), tenant_id, conversation_id, id, 'USER', 'word', 1 from run`,
      [tenantId, count],
    )
  }

  it('survives the death of its process with a run under way, and leaves nothing in Postgres and Redis', {
    tags: ['rule-13', 'rule-14'],
    timeout: 120_000,
  }, async () => {
    const [own, neighbour] = demo.tenants
    if (!own || !neighbour) throw new Error('There are no demo tenants.')
    const first = start()
    const here = await first.url
    const tenantId = await idOf(own.name)
    const neighbours = clientOf(here, neighbour.memberKey)
    const kept = await sendMessage(neighbours, 'Please count to 5')
    for await (const _ of followRun(neighbours, kept.runId));

    const member = clientOf(here, own.memberKey)
    await sendMessage(member, 'Please count to 3')
    // More than one batch.
    await fill(tenantId, 6_000)
    // Under way to the last, with its events in Redis.
    const { runId } = await sendMessage(member, 'Please count to 150')
    const following = followRun(member, runId)
    await following.next()
    const messages = await countOf('messages', tenantId)
    const neighboursMessages = await countOf('messages', await idOf(neighbour.name))

    // Somebody is at a run: the erasure comes past the messages, and no further.
    await admin.query('begin')
    await admin.query("select from runs where tenant_id = $1 and model = 'm' limit 1 for update", [tenantId])
    const operator = clientOf(here, demo.operatorKey)
    const variables = { input: { tenantId: encodeId('Tenant', tenantId), confirmName: own.name } }
    const asking = operator.request(eraseTenant, variables).catch(() => 'its process is dead')
    await vi.waitFor(async () => expect(await countOf('messages', tenantId)).toBe(0), { timeout: 10_000 })
    await first.stop('SIGKILL')
    expect(await asking).toBe('its process is dead')
    await admin.query('rollback')
    expect(await countOf('runs', tenantId)).toBeGreaterThan(0)
    // Its socket is gone: whether the stream notices is not what is tried here.
    following.return(undefined).catch(() => undefined)

    const second = start()
    const again = clientOf(await second.url, demo.operatorKey)
    const finished = async () => {
      const { rows } = await admin.query('select from erasures where id = $1 and finished_at is not null', [tenantId])
      expect(rows).toHaveLength(1)
    }
    await vi.waitFor(finished, { timeout: 30_000 })
    const { eraseTenant: answer } = await again.data<{
      eraseTenant: { certificate: { found: { kind: string; count: number }[] } }
    }>(eraseTenant, variables)
    expect(answer.certificate.found).toContainEqual({ kind: 'messages', count: messages })

    for (const { name } of tenantTables.filter(({ name }) => name !== 'usage_records'))
      expect(await countOf(name, tenantId), name).toBe(0)
    const entries = (await readAllOfRedis(redis.url)).filter(({ name }) => ownerOf(name) === tenantId)
    expect(entries.length).toBeGreaterThan(0)
    // The marks that hold late writers off.
    for (const { text } of entries) expect([...text.matchAll(/type[^}]*?text[^,]*/g)].map(([found]) => found)).toEqual([mark])
    expect(await countOf('messages', await idOf(neighbour.name))).toBe(neighboursMessages)
    // Nobody complained of the fence.
    expect(second.errors()).not.toContain('BH001')
  })
})
