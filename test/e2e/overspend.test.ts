import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { countTokens } from '../../src/llm/token-count.ts'
import { followRun, type ReplyEvent } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type FakeUpstream, startFakeUpstream, type UpstreamScript } from '../support/fake-upstream.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { limitTo, overspendRuns } from '../support/overspend.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { selectRows } from '../support/tenant-rows.ts'

/** Of the first tenant; the second has half as many. CONTRIBUTING.md says how to have more. */
const runs = overspendRuns

/** Budgets of less than half of what all answers would take. */
const budgets = [runs * 140, (runs / 2) * 200]

const workers = 4

/** From 100 to 599 tokens, as many as it was asked for at most; each word is one. */
const answers: UpstreamScript = async (answer) => {
  const { body } = answer.request
  const wanted = 100 + ((body.messages.at(-1)?.content?.length ?? 0) % 500)
  const most = Math.min(wanted, Number(body['max_completion_tokens'] ?? body['max_tokens']))
  answer.delta({ role: 'assistant', content: '' })
  for (let word = 0; word < most; word++) {
    if (word % 20 === 0) await delay(30, undefined, { signal: answer.gone })
    answer.delta({ content: ' the' })
  }
  const input = body.messages.reduce((sum, { content }) => sum + 4 + countTokens(content ?? ''), 3)
  answer.finish(most < wanted ? 'length' : 'stop', { input, output: most })
}

describe.runIf(redisAvailable)(redisSuite('a budget that many answers in several processes spend at once'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let upstream: FakeUpstream
  let dataDir: string
  const processes: PlatformProcess[] = []
  const tenants: { id: string; budget: number; client: GraphQLClient }[] = []

  beforeAll(async () => {
    ;[database, redis, upstream, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      startFakeUpstream(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    upstream.otherwise(answers)
    const env = {
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, REDIS_URL: redis.url },
      ...{ BULKHEAD_DATA_DIR: dataDir, OPENAI_BASE_URL: upstream.url },
    }
    const { tenants: seeded } = await seedAccounts(env)
    const api = startPlatformProcess({ ...env, BULKHEAD_ROLE: 'api' })
    processes.push(api, ...Array.from({ length: workers }, () => startPlatformProcess(env, ['start', '--role', 'worker'])))
    await Promise.all(processes.map(({ url }) => url))
    for (const [index, { name, memberKey }] of seeded.entries()) {
      const budget = budgets[index] ?? 0
      const id = await limitBudget(database, name, budget)
      tenants.push({ id, budget, client: graphqlClient(await api.url, memberKey) })
    }
  }, 300_000)

  afterAll(async () => {
    await Promise.all(tenants.map(({ client }) => client.close()))
    await Promise.all(processes.map((process) => process.stop()))
    await redis.stop()
    await upstream.close()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  }, 60_000)

  it(`is never exceeded, and nearly all of it is spent: ${runs} runs and half as many, a worker killed among them`, async () => {
    const followers: Promise<ReplyEvent[]>[] = []
    const follow = (client: GraphQLClient, runId: string) => {
      if (followers.length < 10) followers.push(allEvents(client, runId))
    }
    const sent = Promise.all(
      tenants.map(({ client }, index) => sendAll(client, index === 0 ? runs : runs / 2, (runId) => follow(client, runId))),
    )
    const killed = expect
      .poll(() => upstream.requests.length, { timeout: 120_000 })
      .toBeGreaterThan(runs / 4)
      .then(() => processes[1]?.stop('SIGKILL'))
    const [accepted] = await Promise.all([sent, killed])
    const unfinished = async () => {
      for (const { id, budget } of tenants) expect(await spentBy(database, id)).toBeLessThanOrEqual(budget)
      const [row] = await selectRows(database, 'select count(*)::int as runs from runs where finished_at is null')
      return row?.['runs']
    }
    await expect.poll(unfinished, { timeout: 180_000, interval: 500 }).toBe(0)

    for (const [index, { id, budget }] of tenants.entries()) {
      const spent = await spentBy(database, id)
      expect(spent).toBeLessThanOrEqual(budget)
      expect(spent).toBeGreaterThanOrEqual(0.95 * budget)
      const rows = await selectRows(
        database,
        `select status, finish_reason, (select count(*)::int from messages m where m.run_id = r.id and m.role = 'ASSISTANT') as replies
         from runs r where tenant_id = '${id}'`,
      )
      expect(rows).toHaveLength(accepted[index]?.filter((run) => run !== null).length ?? 0)
      // An answer is cut short only if it wants more than is left: none is when the last ones happen to fit.
      const finishReason = expect.toBeOneOf(['STOP', 'BUDGET'])
      for (const row of rows) expect(row).toMatchObject({ status: 'COMPLETED', replies: 1, finish_reason: finishReason })
    }
    expect(await selectRows(database, 'select run_id from model_call_attempts')).toEqual([])
    for (const events of await Promise.all(followers)) {
      const ends = events
        .map(({ __typename }) => __typename)
        .filter((name) => /^Run(Completed|Failed|Cancelled|Interrupted)$/.test(name))
      expect(ends).toHaveLength(1)
      expect(events.at(-1)?.__typename).toBe(ends[0])
    }
  }, 300_000)
})

/** Lifts every limit of the demo tenant but the budget. Answers its id. */
async function limitBudget(database: TestDatabase, name: string, budget: number): Promise<string> {
  const [tenant] = await selectRows(database, `select id from tenants where name = '${name}'`)
  const id = String(tenant?.['id'])
  const lifted = { MESSAGES_PER_MINUTE: 1e6, MESSAGES_PER_DAY: 1e6, CONCURRENT_SESSIONS: 1e6 }
  await limitTo(database, id, { ...lifted, MONTHLY_TOKENS: budget })
  return id
}

async function allEvents(client: GraphQLClient, runId: string): Promise<ReplyEvent[]> {
  const events: ReplyEvent[] = []
  for await (const event of followRun(client, runId)) events.push(event)
  return events
}

async function spentBy(database: TestDatabase, tenantId: string): Promise<number> {
  const [row] = await selectRows(
    database,
    `select coalesce(sum(input_tokens + output_tokens), 0)::int as spent from usage_records where tenant_id = '${tenantId}'`,
  )
  return Number(row?.['spent'])
}

type Sent = { sendMessage: { run?: { id: string }; code?: string; retryAfterSeconds?: number | null } }

/** Senders at a time: their requests shall not wait for a database connection for too long. */
const senders = 16

/** Says something in as many conversations: the run of each, or null when the month has no tokens left for it. */
async function sendAll(client: GraphQLClient, count: number, onRun: (runId: string) => void): Promise<(string | null)[]> {
  const left = Array.from({ length: count }, (_, index) => 'x'.repeat((index * 37) % 500 || 1))
  const accepted: (string | null)[] = []
  const sender = async () => {
    for (let content = left.pop(); content !== undefined; content = left.pop()) {
      const run = await send(client, content)
      accepted.push(run)
      if (run !== null) onRun(run)
    }
  }
  await Promise.all(Array.from({ length: senders }, sender))
  return accepted
}

/** Comes again when asked to, as for tokens that are only held. */
async function send(client: GraphQLClient, content: string): Promise<string | null> {
  const title = randomUUID()
  const { createConversation } = await patiently<{ createConversation: { conversation: { id: string } } }>(
    client,
    `mutation ($input: CreateConversationInput!) {
      createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { message } }
    }`,
    { title, idempotencyKey: title },
  )
  const input = { conversationId: createConversation.conversation.id, content, idempotencyKey: title }
  for (;;) {
    const { sendMessage } = await patiently<Sent>(
      client,
      `mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
        ... on SendMessagePayload { run { id } } ... on BudgetExhausted { code retryAfterSeconds } ... on Problem { message }
      } }`,
      input,
    )
    const { run, retryAfterSeconds } = sendMessage
    if (run) return run.id
    if (retryAfterSeconds == null || retryAfterSeconds > 60) return null
    await delay(1_000 * retryAfterSeconds)
  }
}

/** The same request again while the machine is too busy for it. */
async function patiently<T>(client: GraphQLClient, mutation: string, input: Record<string, unknown>): Promise<T> {
  for (;;) {
    // A connection that was idle for too long may be closed just when it is used again.
    const answer = await client.request<T>(mutation, { input }).catch(() => null)
    if (answer && !answer.errors) return answer.data
    if (answer && answer.errors?.[0]?.extensions?.['code'] !== 'SERVICE_UNAVAILABLE')
      throw new Error(JSON.stringify(answer.errors))
    await delay(500)
  }
}
