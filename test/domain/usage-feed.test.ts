import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { beginCall } from '../../src/domain/call-attempt.ts'
import { newId } from '../../src/domain/ids.ts'
import { notifyAdmins } from '../../src/domain/notification.ts'
import { OutboxWorker } from '../../src/domain/outbox.ts'
import type { Courier, Ports } from '../../src/domain/ports.ts'
import { termsAt } from '../../src/domain/pricing.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import { saveTurn } from '../../src/domain/run-ending.ts'
import type { RunTask } from '../../src/domain/run-loop.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { recordUsage } from '../../src/domain/usage.ts'
import { createWebhook, deleteWebhook, type WebhookEvent } from '../../src/domain/webhook.ts'
import { createCourier } from '../../src/notify/courier.ts'
import { createEgress, createOperatorEgress } from '../../src/tools/egress.ts'
import { ask, follow, startWorker as startRunWorker } from '../support/run-story.ts'
import { says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'
import { startWebhookReceiver, verified, type WebhookReceiver } from '../support/webhook-receiver.ts'

// Much of each is waiting, for a machine that may be busy.
vi.setConfig({ testTimeout: 60_000 })
const patience = { timeout: 20_000, interval: 20 }

let story: Story
/** Where the operator has all usage posted, and a tenant's own server. */
let feed: WebhookReceiver
let receiver: WebhookReceiver
let courier: Courier
let withoutFeed: Courier
const feedSecret = `whsec_${Buffer.alloc(32, 'f').toString('base64')}`
const failures: unknown[] = []
const workers: OutboxWorker[] = []

beforeAll(async () => {
  ;[feed, receiver] = await Promise.all([startWebhookReceiver(), startWebhookReceiver()])
  const egress = createEgress({ allowed: [{ address: '127.0.0.1', port: receiver.port }], allowHttp: true })
  const usageFeed = { url: `${feed.url}?key=k`, secret: feedSecret, egress: createOperatorEgress() }
  const options = { egress, mail: null, warn: () => undefined }
  courier = createCourier({ ...options, usageFeed })
  withoutFeed = createCourier(options)
  story = await startStory({ ports: { egress, courier } })
})

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  for (const each of [feed, receiver]) each.answer = (_call, response) => void response.writeHead(204).end()
  // What one test leaves is not due in the next.
  await selectRows(story.database, `update outbox set due_at = 'infinity' where due_at is not null`)
  expect(failures.splice(0)).toEqual([])
})

afterAll(async () => {
  await story.close()
  await Promise.all([feed.close(), receiver.close()])
})

function startWorker(ports: Partial<Ports> = {}): void {
  const { data, catalog } = story
  const onError = (error: unknown) => void failures.push(error)
  const worker = new OutboxWorker({ data, catalog, ports: { ...story.ports, ...ports }, onError, timing: { look: 50 } })
  worker.start()
  workers.push(worker)
}

/** Has the tenant's own server told of these, and answers how to delete that and what it is signed with. */
async function hook(admin: Scope, events?: WebhookEvent[]): Promise<{ webhookId: string; secret: string }> {
  const { webhook, secret } = await createWebhook(admin, { url: `${receiver.url}/${admin.tenant.id}`, events: events ?? null })
  return { webhookId: webhook.id, secret: secret ?? '' }
}

const terms = async (scope: Scope) => {
  const found = await termsAt(scope.db, scope.tenant.id, 'gpt-4o-mini', scope.ports.now())
  if (!found) throw new Error('The model has no price.')
  return found
}

/** A run that has begun to call the model. */
async function calling(scope: Scope): Promise<RunTask['run']> {
  await ask(scope)
  const claimed = await claimRun(scope.db, scope.tenant.id, newId())
  if (!claimed) throw new Error('No run waits.')
  await noted(scope, claimed.run, 0)
  return claimed.run
}

async function noted(scope: Scope, run: RunTask['run'], turn: number): Promise<void> {
  const request = { model: 'gpt-4o-mini', messages: [], temperature: 0, maxOutputTokens: 50, tools: [] }
  const call = { turn, prompt: { request, inputTokens: 1 }, terms: await terms(scope), userPseudonym: null }
  expect(await beginCall(scope.db, run, call)).toBe(true)
}

/** Enters a call of a run of its own into the ledger. */
async function enter(scope: Scope, fed: boolean): Promise<void> {
  const run = await calling(scope)
  await saveTurn(scope.db, run, [], [], { turn: 0, usage: usage(100, 10) }, await terms(scope), { now: scope.ports.now(), fed })
}

const entriesOf = ({ db }: Scope) => db.outboxEntry.findMany({ orderBy: { createdAt: 'asc' } })
const channelsOf = async (scope: Scope) => (await entriesOf(scope)).map(({ channel }) => channel).toSorted()
const ledgerOf = ({ db }: Scope) => db.usageRecord.findMany({ orderBy: { createdAt: 'asc' } })
const callsTo = (from: WebhookReceiver, scope: Scope) => from.calls.filter(({ body }) => body.includes(scope.tenant.id))
const makeDue = (scope: Scope) =>
  selectRows(story.database, `update outbox set due_at = now() where status = 'PENDING' and tenant_id = '${scope.tenant.id}'`)
const gone = (scope: Scope) => expect.poll(() => entriesOf(scope), patience).toEqual([])

describe('each row of the ledger', () => {
  it('reaches the feed and each webhook that wants usage once, signed, as a CloudEvents event, and leaves no message', async () => {
    const { admin, endUser } = await story.tenant()
    const [wanting, other] = [await hook(admin, ['NOTIFICATION', 'USAGE']), await hook(admin)]
    await using _ = await startRunWorker(story, { model: scriptedModel([says('A secret answer.')]) })
    const { run } = await ask(endUser, 'A secret question?')
    await follow(endUser, run.id)
    const [record] = await ledgerOf(admin)
    expect(await channelsOf(admin)).toEqual(['USAGE_FEED', 'WEBHOOK'])
    startWorker()
    await gone(admin)

    const event = {
      ...{ specversion: '1.0', id: record?.id, source: `/bulkhead/tenants/${admin.tenant.id}`, type: 'bulkhead.usage.recorded' },
      ...{ subject: admin.tenant.id, time: record?.createdAt.toISOString(), datacontenttype: 'application/json' },
      data: {
        ...{ tenantId: admin.tenant.id, model: 'gpt-4o-mini' },
        ...{ inputTokens: record?.inputTokens, cachedInputTokens: 0, outputTokens: record?.outputTokens, reasoningTokens: 0 },
        ...{ estimated: record?.estimated, costNanos: String(record?.costNanos), currency: 'USD' },
        ...{ correction: 0, correctsId: null },
      },
    }
    // What operators are not told either.
    const origin = {
      ...{ runId: run.id, conversationId: run.conversationId, agentId: run.agentId, turn: 0, attempt: 1 },
      ...{ configVersion: 1, userPseudonym: record?.userPseudonym },
    }
    const received = [...callsTo(feed, admin), ...callsTo(receiver, admin)]
    expect(received.map(({ id }) => id)).toEqual([record?.id, record?.id])
    for (const call of received) expect(call.headers['content-type']).toBe('application/cloudevents+json')
    const [toFeed, toTenant] = received
    if (!toFeed || !toTenant) throw new Error('Both were counted.')
    expect(verified(toFeed, feedSecret)).toEqual(event)
    expect(toFeed.path).toBe('/hook?key=k')
    expect(verified(toTenant, wanting.secret)).toEqual({ ...event, data: { ...event.data, ...origin } })
    for (const secret of [wanting.secret, other.secret]) expect(() => verified(toFeed, secret)).toThrow('No matching signature')
    expect(record?.userPseudonym).toMatch(/^[0-9a-f-]{36}$/)
    expect(`${toFeed.body}${toTenant.body}`).not.toMatch(/secret|ursula/)
  })

  it('does not pile up for a webhook that has taken nothing for a while, and comes again once it does', async () => {
    const { admin } = await story.tenant()
    const { webhookId } = await hook(admin, ['USAGE'])
    const failing = async () => (await admin.db.webhook.findFirst({ where: { id: webhookId } }))?.failingSince ?? null
    receiver.answer = (_call, response) => void response.writeHead(500).end()
    await enter(admin, false)
    startWorker({ courier: withoutFeed })
    await expect.poll(failing, patience).toBeInstanceOf(Date)
    // It may have been away for a moment.
    await enter(admin, false)
    expect(await entriesOf(admin)).toHaveLength(2)

    await selectRows(
      story.database,
      `update webhooks set failing_since = now() - interval '11 minutes' where id = '${webhookId}'`,
    )
    await enter(admin, false)
    expect(await entriesOf(admin)).toHaveLength(2)
    receiver.answer = (_call, response) => void response.writeHead(204).end()
    await selectRows(story.database, `update outbox set due_at = now() where tenant_id = '${admin.tenant.id}'`)
    await expect.poll(failing, patience).toBeNull()
    await gone(admin)
    await enter(admin, false)
    await expect.poll(() => callsTo(receiver, admin).length, patience).toBeGreaterThanOrEqual(3)
  })

  it('comes again under the same id after a failure, until it is taken', async () => {
    const { admin } = await story.tenant()
    await hook(admin, ['USAGE'])
    await enter(admin, true)
    const answers = new Map([feed, receiver].map((each) => [each, [500, 302]]))
    for (const [each, codes] of answers)
      each.answer = (_call, response) => void response.writeHead(codes.shift() ?? 200, { location: '/elsewhere' }).end()
    startWorker()
    for (const reason of ['It answered 500.', 'It answered 302.']) {
      const reasons = async () => (await entriesOf(admin)).map(({ lastFailure }) => lastFailure)
      await expect.poll(reasons, patience).toEqual([reason, reason])
      await makeDue(admin)
    }
    await gone(admin)
    const [record] = await ledgerOf(admin)
    for (const each of [feed, receiver]) {
      const calls = callsTo(each, admin)
      expect(calls.map(({ id, body }) => [id, JSON.parse(body).id])).toEqual(Array(3).fill([record?.id, record?.id]))
      expect(new Set(calls.map(({ body }) => body)).size).toBe(1)
    }
  })

  it('is kept as failed when the feed gave it up, and not when a webhook did, whose tenant has the ledger', async () => {
    const { admin } = await story.tenant()
    await hook(admin, ['USAGE'])
    await enter(admin, true)
    for (const each of [feed, receiver]) each.answer = (_call, response) => void response.writeHead(410).end()
    startWorker()
    const states = async () => (await entriesOf(admin)).map(({ channel, status, lastFailure }) => [channel, status, lastFailure])
    await expect.poll(states, patience).toEqual([['USAGE_FEED', 'FAILED', 'It answered 410.']])
  })

  it('tells a tenant of its own alone, and the feed of all', async () => {
    const tenants = [await story.tenant(), await story.tenant()]
    const secrets = new Map<string, string>()
    for (const { admin } of tenants) secrets.set(admin.tenant.id, (await hook(admin, ['USAGE'])).secret)
    for (const { admin } of [...tenants, ...tenants]) await enter(admin, true)
    startWorker()
    for (const { admin } of tenants) {
      await gone(admin)
      const ids = (await ledgerOf(admin)).map(({ id }) => id).toSorted()
      expect(ids).toHaveLength(2)
      const own = receiver.calls.filter(({ path }) => path.endsWith(admin.tenant.id))
      expect(own.map(({ id }) => id).toSorted()).toEqual(ids)
      for (const call of own) {
        const { subject, data } = verified(call, secrets.get(admin.tenant.id) ?? '') as Record<string, { tenantId: string }>
        expect([subject, data?.tenantId]).toEqual([admin.tenant.id, admin.tenant.id])
      }
      expect(
        callsTo(feed, admin)
          .map(({ id }) => id)
          .toSorted(),
      ).toEqual(ids)
    }
  })
})

describe('nothing is told', () => {
  it('where no feed is set and no webhook wants usage', async () => {
    const { admin } = await story.tenant()
    await hook(admin)
    await using _ = await startRunWorker(story, {
      model: scriptedModel([says('Yes.')]),
      ports: { ...story.ports, courier: withoutFeed },
    })
    const { run } = await ask(admin)
    await follow(admin, run.id)
    expect(await ledgerOf(admin)).toHaveLength(1)
    expect(await entriesOf(admin)).toEqual([])
  })

  it('of a transaction that comes to nothing', async () => {
    const { admin } = await story.tenant()
    await hook(admin, ['USAGE'])
    const run = await calling(admin)
    const { rates, currency } = await terms(admin)
    const key = { tenantId: admin.tenant.id, runId: run.id, turn: 0, attempt: run.epoch }
    const cancelled = admin.db.$transaction(async (tx) => {
      await recordUsage(tx, { key, usage: usage(100, 10), terms: { rates, currency }, entry: { now: 0, fed: true } })
      expect(await tx.outboxEntry.count()).toBe(2)
      throw new Error('Cancelled.')
    })
    await expect(cancelled).rejects.toThrow('Cancelled.')
    expect(await ledgerOf(admin)).toEqual([])
    expect(await entriesOf(admin)).toEqual([])
  })

  it('a second time, however often a call is entered', async () => {
    const { admin } = await story.tenant()
    await hook(admin, ['USAGE'])
    const run = await calling(admin)
    const charged = await terms(admin)
    const call = { turn: 0, usage: usage(100, 10) }
    await Promise.all([1, 2, 3].map(() => saveTurn(admin.db, run, [], [], call, charged, { now: admin.ports.now(), fed: true })))
    expect(await ledgerOf(admin)).toHaveLength(1)
    expect(await channelsOf(admin)).toEqual(['USAGE_FEED', 'WEBHOOK'])
  })

  it('of a notification to a webhook that wants usage alone, and of usage to one that does not', async () => {
    const { admin } = await story.tenant()
    const [usual, both] = [await hook(admin), await hook(admin, ['USAGE', 'NOTIFICATION'])]
    const usageAlone = await hook(admin, ['USAGE'])
    const notice = { kind: 'QUOTA_THRESHOLD_REACHED', dedupeKey: 'k', title: 'Half', body: 'Half of it.', details: {} } as const
    await notifyAdmins(admin, [notice])
    const webhooksOf = async (isUsage: boolean) =>
      (await entriesOf(admin)).flatMap((entry) =>
        entry.webhookId !== null && (entry.notificationId === null) === isUsage ? entry.webhookId : [],
      )
    expect((await webhooksOf(false)).toSorted()).toEqual([usual.webhookId, both.webhookId].toSorted())
    await enter(admin, false)
    expect((await webhooksOf(true)).toSorted()).toEqual([both.webhookId, usageAlone.webhookId].toSorted())
  })
})

describe('a process without the feed', () => {
  it('leaves its messages to another, and delivers the others', async () => {
    const { admin } = await story.tenant()
    await hook(admin, ['USAGE'])
    for (let n = 0; n < 30; n++) await enter(admin, true)
    startWorker({ courier: withoutFeed })
    await expect.poll(() => channelsOf(admin), patience).toEqual(Array(30).fill('USAGE_FEED'))
    const untouched = { status: 'PENDING', attempts: 0, lastFailure: null }
    for (const entry of await entriesOf(admin)) expect(entry).toMatchObject(untouched)
    startWorker()
    await gone(admin)
    expect(new Set(callsTo(feed, admin).map(({ id }) => id)).size).toBe(30)
  })
})

describe('a feed that is slow', () => {
  it('holds up nothing that goes to tenants, and is asked so much at a time', async () => {
    const { admin } = await story.tenant()
    for (let n = 0; n < 20; n++) await enter(admin, true)
    feed.answer = () => undefined
    startWorker()
    await expect.poll(() => callsTo(feed, admin).length, patience).toBe(16)
    await hook(admin, ['USAGE'])
    await enter(admin, false)
    await expect.poll(() => callsTo(receiver, admin).length, patience).toBe(1)
    expect(callsTo(feed, admin)).toHaveLength(16)
  })
})

describe('a webhook that is deleted while a call is entered', () => {
  it('is waited for, and the call is entered all the same', async () => {
    const { admin } = await story.tenant()
    const { webhookId } = await hook(admin, ['USAGE'])
    const run = await calling(admin)
    const charged = await terms(admin)
    await asAdmin(story.database, async (other) => {
      await other.query('begin')
      await other.query('delete from webhooks where id = $1', [webhookId])
      const entering = saveTurn(admin.db, run, [], [], { turn: 0, usage: usage(1, 1) }, charged, {
        now: admin.ports.now(),
        fed: true,
      })
      const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      await expect.poll(() => selectRows(story.database, waiting), patience).toHaveLength(1)
      await other.query('commit')
      await entering
    })
    expect(await ledgerOf(admin)).toHaveLength(1)
    expect(await channelsOf(admin)).toEqual(['USAGE_FEED'])
  })

  it('takes what waits for it along', async () => {
    const { admin } = await story.tenant()
    const { webhookId } = await hook(admin, ['USAGE'])
    await enter(admin, false)
    await deleteWebhook(admin, { webhookId })
    expect(await entriesOf(admin)).toEqual([])
  })
})
