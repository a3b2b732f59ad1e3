// @module-tag redis-logs-errors
// @module-tag rule-13
import { rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { isUuid } from '../../src/domain/ids.ts'
import { ownerOf, platformKeys } from '../../src/redis/key-space.ts'
import { tried } from '../isolation/tried.ts'
import {
  askForTheUnstorable,
  becomeCanary,
  bringModelKey,
  type CanaryTenant,
  canaryModel,
  cancelRun,
  echoInEveryForm,
  modelKeyOf,
  provoke,
  refuseUnstorable,
  say,
} from '../support/canary-story.ts'
import { columnsWith, formsOf } from '../support/columns.ts'
import { adminQuery } from '../support/database-url.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type FakeUpstream, startFakeUpstream } from '../support/fake-upstream.ts'
import { liftLimits } from '../support/limits.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisEntry, readAllOfRedis, watchRedis } from '../support/redis-contents.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

// The whole story on the real program: two processes, one Postgres, one Redis, and two tenants that leave their canary wherever
// they can, while whatever can fail does. Then everything that it left behind is read.
describe.runIf(redisAvailable)(redisSuite('what the platform leaves behind'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let upstream: FakeUpstream
  let dataDir: string
  /** What the tenants' tools call, and what tells them what it was sent. */
  let echo: WebhookReceiver
  let processes: PlatformProcess[] = []
  let tenants: CanaryTenant[] = []
  /** Keys with their values, read while runs were under way and at the end; and every command from the first to the last. */
  const stored: RedisEntry[] = []
  let commands: RedisEntry[] = []

  beforeAll(async () => {
    ;[database, redis, upstream, dataDir, echo] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      startFakeUpstream(),
      makeScratchDirectory('bulkhead-e2e-'),
      startWebhookReceiver(),
    ])
    echo.answer = echoInEveryForm
    upstream.otherwise(canaryModel)
    const env = {
      DATABASE_URL: database.appUrl,
      DATABASE_PLATFORM_URL: database.platformUrl,
      REDIS_URL: redis.url,
      OPENAI_BASE_URL: upstream.url,
      OPENAI_API_KEY: 'test',
      BULKHEAD_DATA_DIR: dataDir,
      BULKHEAD_MODEL_CONCURRENCY: '*=1000',
      BULKHEAD_EGRESS_ALLOW: `127.0.0.1:${echo.port}`,
      BULKHEAD_EGRESS_HTTP: 'on',
      LOG_LEVEL: 'trace',
    }
    const seeded = await seedAccounts(env)
    await liftLimits(database)
    const watch = await watchRedis(redis.url)
    processes = [startPlatformProcess(env), startPlatformProcess(env)]
    const urls = await Promise.all(processes.map(({ url }) => url))
    await tellTheStory(urls, seeded.tenants)
    commands = watch.commands
    watch.stop()
    await Promise.all(processes.map((each) => each.stop()))
  }, 240_000)

  afterAll(async () => {
    await Promise.all(processes.map((each) => each.stop()))
    await Promise.all([upstream.close(), redis.stop(), echo.close()])
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  async function tellTheStory([one = '', two = '']: string[], accounts: { name: string; adminKey: string }[]): Promise<void> {
    const places = { url: one, adminUrl: database.adminUrl, echoUrl: echo.url }
    tenants = await Promise.all(accounts.map(({ name, adminKey }) => becomeCanary(places, name, adminKey)))
    for (const tenant of tenants.slice(0, 1)) await bringModelKey(two, tenant)
    const all = <T>(act: (tenant: CanaryTenant, urls: string[]) => Promise<T>) =>
      Promise.all(tenants.map((tenant, index) => act(tenant, index === 0 ? [one, two] : [two, one])))

    for (const what of ['hello', 'use a tool', 'send a secret', 'send a secret in vain'])
      await all((tenant, urls) => say(tenant, urls, what))
    const stalled = await all((tenant, urls) => say(tenant, urls, 'stall'))
    stored.push(...(await readAllOfRedis(redis.url)))
    await Promise.all(tenants.map((tenant, index) => cancelRun(tenant, two, stalled[index] ?? '')))

    for (const what of ['fail 400', 'fail 500', 'break off', 'garbage']) await all((tenant, urls) => say(tenant, urls, what))
    await refuseUnstorable(database.adminUrl)
    await all((tenant, [url = '']) => provoke(tenant, url))
    const unstorable = await all((tenant, [url = '']) => askForTheUnstorable(tenant, url))
    await logged('Background work failed.')
    await Promise.all(tenants.map((tenant, index) => cancelRun(tenant, two, unstorable[index] ?? '')))
    await adminQuery(
      database.adminUrl,
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
    )
    stored.push(...(await readAllOfRedis(redis.url)))

    await redis.stop()
    // Whether it is refused or waits for Redis to come back is no matter here.
    await all((tenant, urls) => Promise.race([say(tenant, urls, 'without Redis').catch(() => undefined), delay(5_000)]))
    await redis.restart()
    // The same once more, until both have found it again.
    await vi.waitFor(() => all((tenant, urls) => say(tenant, urls, 'hello again')), { timeout: 20_000, interval: 500 })
    stored.push(...(await readAllOfRedis(redis.url)))
  }

  /** Resolves once a process has logged such a line. */
  async function logged(message: string): Promise<void> {
    await vi.waitFor(() => expect(processes.map(({ errors }) => errors()).join()).toContain(message), { timeout: 40_000 })
  }

  const canariesIn = (text: string) => tenants.filter(({ canary }) => text.includes(canary))

  /** What is of somebody else, or of nobody, in entries under a name. */
  function strays(entries: RedisEntry[]): string[] {
    return entries.flatMap(({ name, text }) => {
      const owner = ownerOf(name)
      const foreign = canariesIn(text).filter(({ tenantId }) => tenantId !== owner)
      return foreign.length > 0 ? [`${name}: ${text}`] : []
    })
  }

  it('has done what it was to do', () => {
    const text = stored.map((entry) => entry.text).join()
    expect(canariesIn(text)).toEqual(tenants)
    expect(text).toContain('ToolCallFinished')
    const sent = new Set(commands.map((command) => command.text.split(' ')[0]?.toLowerCase()))
    for (const command of ['evalsha', 'xadd', 'spublish', 'ssubscribe', 'xrange']) expect(sent).toContain(command)
    const answers = tenants.flatMap(({ refusals }) => refusals.map(({ answer }) => answer)).join()
    for (const code of ['BAD_USER_INPUT', 'UNAUTHENTICATED', 'FORBIDDEN', 'NOT_FOUND', 'INTERNAL'])
      expect(answers).toContain(code)
    for (const { errors } of processes) expect(errors()).toContain('Unexpected error.')
    for (const { headers, body } of upstream.requests) {
      const [asking] = canariesIn(JSON.stringify(body))
      const key = asking && asking === tenants[0] ? modelKeyOf(asking.canary) : 'test'
      expect(headers.authorization).toBe(`Bearer ${key}`)
    }
    for (const { errors } of processes) expect(errors()).toMatch(/Redis|ECONNREFUSED/)
  })

  it('in Redis is under a key of its tenant, or one of the platform’s, and nobody finds the other’s there', ({ task }) => {
    const leaks = strays(stored)
    tried(task, { cases: stored.length, leaks: leaks.length })
    expect(leaks).toEqual([])
  })

  it('sent to Redis went to a key or channel of its tenant', ({ task }) => {
    const leaks = strays(commands)
    tried(task, { cases: commands.length, leaks: leaks.length })
    expect(leaks).toEqual([])
  })

  it('under the platform’s keys is nothing of a tenant but ids', () => {
    const ofPlatform = [...stored, ...commands].filter(({ name }) => ownerOf(name) === null)
    for (const { prefix } of Object.values(platformKeys))
      expect(ofPlatform.map(({ name }) => name.split(':')[0])).toContain(prefix)
    expect(canariesIn(ofPlatform.map(({ text }) => text).join())).toEqual([])
    // What is published, and what a wake-up holds.
    const payloads = ofPlatform.flatMap(({ text }) => [...text.matchAll(/^spublish \S+ (\{.*\})$|\bdata (\{.*?\}) opts/gi)])
    const told = payloads.map(([, signal, wakeUp]) => JSON.parse(signal ?? wakeUp ?? ''))
    expect(told.map(({ type: _type, ...ids }) => Object.values(ids).every((id) => isUuid(String(id))))).toEqual(
      told.map(() => true),
    )
    expect(told.map((each) => Object.keys(each).join())).toEqual(expect.arrayContaining(['tenantId', 'type,tenantId,runId']))
  })

  it('in the logs names nobody, whatever went wrong, at the level trace', ({ task }) => {
    const lines = processes.flatMap(({ output, errors }) => `${output()}\n${errors()}`.split('\n'))
    const leaks = lines.filter((line) => canariesIn(line).length > 0)
    tried(task, { cases: lines.length, leaks: leaks.length })
    expect(leaks).toEqual([])
  })

  it('holds no secret that a tool has sent and was told again, in any form', { tags: ['edge-redaction'] }, async ({ task }) => {
    const logs = processes.map(({ output, errors }) => output() + errors()).join()
    const prompts = upstream.requests.map(({ body }) => JSON.stringify(body)).join()
    const answers = tenants.flatMap(({ refusals }) => refusals.map(({ answer }) => answer)).join()
    const inRedis = [...stored, ...commands].map(({ text }) => text).join()
    expect(prompts.match(/\[redacted\]/g)?.length).toBeGreaterThan(10)
    let leaks = 0
    for (const { secret, canary } of tenants) {
      const calls = echo.calls.filter(({ path }) => path.includes(canary))
      expect(calls.map(({ headers }) => headers['authorization'])).toEqual([`Bearer ${secret}`, `Bearer ${secret}`])
      const forms = formsOf(secret)
      for (const text of [logs, prompts, answers, inRedis]) if (forms.some((form) => text.includes(form))) leaks += 1
      leaks += (await columnsWith(database.adminUrl, secret)).length
    }
    tried(task, { cases: tenants.length * 5, leaks })
    expect(leaks).toBe(0)
  })

  it('in answers to what was wrong holds nothing but what was just sent, and where it is masked not even that', ({ task }) => {
    const refusals = tenants.flatMap((tenant) => tenant.refusals.map((refusal) => ({ ...refusal, tenant })))
    const leaks = refusals.filter(({ sent, answer, tenant }) => {
      const own = !/"(INTERNAL|SERVICE_UNAVAILABLE|UNAUTHENTICATED)"/.test(answer) && sent.includes(tenant.canary)
      return canariesIn(answer).some((each) => each !== tenant || !own)
    })
    tried(task, { cases: refusals.length, leaks: leaks.length })
    expect(leaks).toEqual([])
  })
})
