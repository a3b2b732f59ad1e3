import { rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { decodeId } from '../../src/schema/global-id.ts'
import { createWebhookMutation } from '../operations/webhook.ts'
import { type Api, apiClient } from '../support/api.ts'
import { payload, say } from '../support/conversing.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { type MailServer, startMailServer } from '../support/smtp-server.ts'
import { addRows, selectRows } from '../support/tenant-rows.ts'
import { startWebhookReceiver, verified, type WebhookReceiver } from '../support/webhook-receiver.ts'

/** A worker is given up after 30 s. */
const patience = { timeout: 90_000, interval: 50 }

const feedSecret = `whsec_${Buffer.alloc(32, 'f').toString('base64')}`

describe.runIf(redisAvailable)(redisSuite('the death of a process that delivers'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let mail: MailServer
  let receiver: WebhookReceiver
  let feed: WebhookReceiver
  let dataDir: string
  let env: Record<string, string>
  let admin: Api
  const processes: PlatformProcess[] = []

  beforeAll(async () => {
    ;[database, redis, mail, receiver, feed, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      startMailServer(),
      startWebhookReceiver(),
      startWebhookReceiver(),
      makeScratchDirectory('bulkhead-e2e-'),
    ])
    env = {
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, REDIS_URL: redis.url },
      ...{ BULKHEAD_DATA_DIR: dataDir, SMTP_URL: mail.url, MAIL_FROM: 'bulkhead@mail.example' },
      ...{ BULKHEAD_EGRESS_ALLOW: `127.0.0.1:${receiver.port}`, BULKHEAD_EGRESS_HTTP: 'on' },
      ...{ BULKHEAD_USAGE_FEED_URL: feed.url, BULKHEAD_USAGE_FEED_SECRET: feedSecret },
    }
    const seeded = await seedAccounts(env)
    const api = startPlatformProcess({ ...env, BULKHEAD_ROLE: 'api' })
    processes.push(api)
    admin = apiClient(await api.url, seeded.tenants[0].adminKey)
  }, 120_000)

  afterAll(async () => {
    await admin.client.close()
    await Promise.all(processes.map((process) => process.stop()))
    await Promise.all([redis.stop(), mail.close(), receiver.close(), feed.close()])
    await database.drop()
    await rm(dataDir, { recursive: true, force: true })
  })

  async function startWorker(): Promise<PlatformProcess> {
    const worker = startPlatformProcess(env, ['start', '--role', 'worker'])
    processes.push(worker)
    await worker.url
    return worker
  }

  it('leaves its messages to another, which delivers them under the same ids', { timeout: 240_000 }, async () => {
    const created = await admin.data(createWebhookMutation, { input: { url: receiver.url } })
    const { webhook, secret } = payload(created.createWebhook, 'CreateWebhookPayload')
    const webhookId = decodeId('Webhook', webhook.id)
    const [{ tenantId } = {}] = await selectRows(
      database,
      `select tenant_id as "tenantId" from webhooks where id = '${webhookId}'`,
    )
    // Whoever calls is kept waiting, so that it dies while it delivers.
    receiver.answer = () => undefined
    await addRows(database, {
      Notification: {
        ...{ id: '018f0000-0000-7000-8000-000000000001', tenantId, kind: 'QUOTA_THRESHOLD_REACHED', dedupeKey: 'once' },
        ...{ title: 'Half of it', body: 'Half of it is used.', details: {} },
      },
    })
    const entry = { tenantId, notificationId: '018f0000-0000-7000-8000-000000000001' }
    const data = { threshold: 50 }
    const posted = { type: 'quota.threshold_reached', timestamp: '2026-11-29T00:00:00.000Z', data }
    const id = '018f0000-0000-7000-8000-000000000002'
    await addRows(database, { OutboxEntry: { ...entry, id, channel: 'WEBHOOK', webhookId, payload: posted } })

    const doomed = await startWorker()
    await expect.poll(() => receiver.calls.length, patience).toBe(1)
    await doomed.stop('SIGKILL')
    receiver.answer = (_call, response) => void response.writeHead(204).end()
    await startWorker()
    const state = async () => (await selectRows(database, `select status, attempts from outbox where id = '${id}'`))[0]
    await expect.poll(state, patience).toEqual({ status: 'DELIVERED', attempts: 2 })
    expect(receiver.calls.map((call) => call.id)).toEqual([id, id])
    for (const call of receiver.calls) expect(verified(call, secret ?? '')).toEqual(posted)

    // With a worker there, a notification reaches everybody it is for.
    const to = { to: 'ada@acme.example', subject: 'Half of it', text: 'Half of it is used.' }
    await addRows(database, { OutboxEntry: { ...entry, id: id.replace(/2$/, '3'), channel: 'EMAIL', payload: to } })
    await expect.poll(() => mail.received.map((each) => each.to), patience).toEqual([['ada@acme.example']])

    // And what an answer used reaches the operator's feed.
    const { runId } = await say(admin, 'Who are you?')
    const run = decodeId('Run', runId)
    const entered = async () => selectRows(database, `select id from usage_records where run_id = '${run}'`)
    await expect.poll(async () => (await entered()).length, patience).toBe(1)
    const [{ id: recordId } = {}] = await entered()
    await expect.poll(() => feed.calls.map((call) => call.id), patience).toEqual([recordId])
    const [call] = feed.calls
    if (!call) throw new Error('It was counted.')
    expect(verified(call, feedSecret)).toMatchObject({ id: recordId, subject: tenantId, data: { tenantId, correction: 0 } })
    expect(receiver.calls).toHaveLength(2)
  })
})
