import { rm } from 'node:fs/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { countTokens } from '../../src/llm/token-count.ts'
import { decodeId } from '../../src/schema/global-id.ts'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type FakeUpstream, says, startFakeUpstream, type UpstreamScript } from '../support/fake-upstream.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { selectRows } from '../support/tenant-rows.ts'

const story = Array.from({ length: 60 }, (_, n) => `and on day ${n} nobody came to the lighthouse,`)
const first = 'Once upon a time'

const conversationIsHeld = Promise.withResolvers<void>()

/** What the upstream does with the call that its worker dies in, by the question. Nothing is said twice. */
const lastWords: Record<string, UpstreamScript> = {
  'before the first byte': (answer) => new Promise((gone) => answer.gone.addEventListener('abort', () => gone())),
  'in mid-stream': saysHalf([first, ...story].join(' ')),
  'after the last byte': async (answer) => {
    await conversationIsHeld.promise
    await says(first, { usage: { input: 77, output: 4 } })(answer)
  },
  ...Object.fromEntries([5, 20, 45].map((n) => [`${n} phrases in`, saysHalf(story.slice(0, n).join(' '))])),
}

describe.runIf(redisAvailable)(redisSuite('the death of a worker process'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let upstream: FakeUpstream
  let dataDir: string
  let env: Record<string, string>
  let api: PlatformProcess
  let client: GraphQLClient
  const workers: PlatformProcess[] = []

  beforeAll(async () => {
    ;[database, redis, upstream, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      startFakeUpstream(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    env = {
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, REDIS_URL: redis.url },
      ...{ BULKHEAD_DATA_DIR: dataDir, OPENAI_BASE_URL: upstream.url },
    }
    const seeded = await seedAccounts(env)
    api = startPlatformProcess({ ...env, BULKHEAD_ROLE: 'api' })
    client = graphqlClient(await api.url, seeded.tenants[0].memberKey)
    upstream.otherwise(says('All is well.', { usage: { input: 50, output: 3 } }))
  }, 60_000)

  afterAll(async () => {
    await client.close()
    await Promise.all([api, ...workers].map((process) => process.stop()))
    await redis.stop()
    await upstream.close()
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  async function startWorker(): Promise<PlatformProcess> {
    const worker = startPlatformProcess(env, ['start', '--role', 'worker'])
    workers.push(worker)
    await worker.url
    return worker
  }

  /** Asks, and collects the events of the answer while they come. */
  async function ask(question: string) {
    const { conversationId, runId } = await sendMessage(client, question)
    const events: ReplyEvent[] = []
    const ended = (async () => {
      for await (const event of followRun(client, runId)) events.push(event)
    })()
    return { question, conversationId, runId, events, ended }
  }

  const callsFor = (question: string) => upstream.requests.filter(({ lastMessage }) => lastMessage === question)

  it('leaves each call that reached the model in the ledger once, with what it had said', async () => {
    for (const [question, script] of Object.entries(lastWords))
      upstream.when((request) => callsFor(question)[0] === request, script)
    const doomed = await startWorker()
    const asked = await Promise.all(Object.keys(lastWords).map(ask))
    const late = asked.find(({ question }) => question === 'after the last byte')
    await using lock = await holdConversation(database.adminUrl, decodeId('Conversation', late?.conversationId ?? ''))
    conversationIsHeld.resolve()
    const patience = { timeout: 20_000, interval: 50 }
    await expect.poll(() => upstream.requests.length, patience).toBe(asked.length)
    for (const { question, events } of asked) await expect.poll(() => shownText(events), patience).toBe(spoken(question))
    await expect.poll(() => lock.isWaitedFor(), patience).toBe(true)
    await doomed.stop('SIGKILL')
    await lock.endWaiting()
    const streamed = new Map(asked.map(({ question, events }) => [question, shownText(events)]))
    await lock[Symbol.asyncDispose]()
    const killedAt = performance.now()
    await startWorker()
    await Promise.all(asked.map(({ ended }) => ended))
    // A worker is dead after ten seconds of silence, and found within two more.
    expect(performance.now() - killedAt).toBeLessThan(20_000)

    for (const { question, runId, events } of asked) {
      expect(shownText(events), question).toBe('All is well.')
      const rows = await selectRows(
        database,
        `select turn, attempt, input_tokens, output_tokens, estimated from usage_records where run_id = '${decodeId('Run', runId)}' order by attempt`,
      )
      expect(rows, question).toMatchObject([
        { turn: 0, attempt: 1, estimated: true },
        { turn: 0, attempt: 2, estimated: false, input_tokens: 50, output_tokens: 3 },
      ])
      expect(rows, question).toHaveLength(callsFor(question).length)
      const tokens = countTokens(streamed.get(question) ?? '')
      expect(Math.abs(Number(rows[0]?.['output_tokens']) - tokens), question).toBeLessThanOrEqual(tokens * 0.02)
      expect(Number(rows[0]?.['input_tokens']), question).toBeGreaterThan(countTokens(question))
    }
    expect(await selectRows(database, 'select run_id from model_call_attempts')).toEqual([])
  }, 90_000)
})

/** Says it, and then nothing more. */
function saysHalf(text: string): UpstreamScript {
  return async (answer) => {
    for (const content of text.match(/\s*\S+/g) ?? []) answer.delta({ content })
    await new Promise<void>((gone) => answer.gone.addEventListener('abort', () => gone()))
  }
}

/** What is said before the worker dies. */
function spoken(question: string): string {
  if (question === 'before the first byte') return ''
  if (question === 'after the last byte') return first
  return question === 'in mid-stream' ? [first, ...story].join(' ') : story.slice(0, Number.parseInt(question, 10)).join(' ')
}

/** Keeps everybody from ending a run of the conversation. */
async function holdConversation(adminUrl: string, conversationId: string) {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  await admin.query('begin')
  await admin.query('select from conversations where id = $1 for update', [conversationId])
  let isHeld = true
  return {
    isWaitedFor: async () => (await admin.query('select from pg_locks where not granted')).rowCount !== 0,
    /** Ends the statements that wait: what was sent is else carried out, also for a client that is dead. */
    endWaiting: () => admin.query('select pg_terminate_backend(pid) from pg_locks where not granted'),
    async [Symbol.asyncDispose]() {
      if (isHeld) await admin.end()
      isHeld = false
    },
  }
}
