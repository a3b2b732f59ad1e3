import { once } from 'node:events'
import { createServer } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { notifyAdmins } from '../../src/domain/notification.ts'
import { OutboxWorker, retryDelay } from '../../src/domain/outbox.ts'
import type { Ports } from '../../src/domain/ports.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { createWebhook, deleteWebhook } from '../../src/domain/webhook.ts'
import { createCourier } from '../../src/notify/courier.ts'
import { createEgress } from '../../src/tools/egress.ts'
import { type MailServer, startMailServer } from '../support/smtp-server.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'
import { startWebhookReceiver, verified, type WebhookReceiver } from '../support/webhook-receiver.ts'

// Much of each is waiting, for a machine that may be busy.
vi.setConfig({ testTimeout: 60_000 })

let story: Story
let mail: MailServer
let receiver: WebhookReceiver
let failures: unknown[]
const warnings: string[] = []
const workers: OutboxWorker[] = []
/** For a busy machine. */
const patience = { timeout: 20_000, interval: 20 }

beforeAll(async () => {
  ;[mail, receiver] = await Promise.all([startMailServer(), startWebhookReceiver()])
  const egress = createEgress({ allowed: [{ address: '127.0.0.1', port: null }], allowHttp: true })
  const from = 'Bulkhead <bulkhead@mail.example>'
  const courier = createCourier({ egress, mail: { url: mail.url, from }, warn: (message) => warnings.push(message) })
  story = await startStory({ ports: { egress, courier } })
  failures = []
})

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  mail.refuseWith(null)
  receiver.answer = (_call, response) => void response.writeHead(204).end()
  // What one test leaves is not due in the next.
  await selectRows(story.database, `update outbox set due_at = 'infinity' where due_at is not null`)
  expect(failures.splice(0)).toEqual([])
})

afterAll(async () => {
  await story.close()
  await Promise.all([mail.close(), receiver.close()])
})

function startWorker({
  ports = {},
  ...timing
}: {
  ports?: Partial<Ports>
  lease?: number
  patience?: number
} = {}): OutboxWorker {
  const { data, catalog } = story
  const onError = (error: unknown) => void failures.push(error)
  const options = { data, catalog, ports: { ...story.ports, ...ports }, onError, timing: { look: 50, ...timing } }
  const worker = new OutboxWorker(options)
  worker.start()
  workers.push(worker)
  return worker
}

/** A tenant with this many webhooks, with their secrets. */
async function someone(webhooks: number, url = receiver.url): Promise<TenantStory & { secrets: string[] }> {
  const tenant = await story.tenant()
  const secrets: string[] = []
  for (let n = 0; n < webhooks; n++) secrets.push((await createWebhook(tenant.admin, { url: `${url}/${n}` })).secret ?? '')
  return { ...tenant, secrets }
}

let told = 0

async function tell(scope: Scope, body = 'Half of it is used.'): Promise<void> {
  told += 1
  const notice = {
    kind: 'QUOTA_THRESHOLD_REACHED',
    dedupeKey: `k${told}`,
    title: `Ünd nun ${told}`,
    body,
    details: { threshold: 50 },
  } as const
  await notifyAdmins(scope, [notice])
}

const entriesOf = ({ db }: Scope) => db.outboxEntry.findMany({ orderBy: { id: 'asc' } })
const callsTo = (tenant: TenantStory) => receiver.calls.filter(({ body }) => body.includes(tenant.tenant.id))
const statesOf = async (scope: Scope) => (await entriesOf(scope)).map(({ channel, status }) => `${channel} ${status}`)
const makeDue = (scope: Scope) =>
  selectRows(story.database, `update outbox set due_at = now() where status = 'PENDING' and tenant_id = '${scope.tenant.id}'`)

describe('what admins are told', () => {
  it('reaches their mailboxes, and their webhooks, signed with the secret of each', async () => {
    const acme = await someone(2)
    await tell(acme.admin)
    startWorker()
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED', 'WEBHOOK DELIVERED'])
    const [email, ...webhooks] = await entriesOf(acme.admin)
    const to = `ada@${acme.tenant.name}.example`
    const received = mail.received.filter((each) => each.to.includes(to))
    expect(received).toEqual([
      { from: 'bulkhead@mail.example', to: [to], headers: expect.anything(), text: 'Half of it is used.' },
    ])
    expect(received[0]?.headers).toMatchObject({
      ...{ from: 'Bulkhead <bulkhead@mail.example>', to, 'message-id': `<${email?.id}@mail.example>` },
      subject: expect.stringMatching(/^=\?UTF-8\?Q\?=C3=9Cnd_nun_\d+\?=$/),
    })

    const calls = callsTo(acme)
    expect(calls.map(({ id }) => id).toSorted()).toEqual(webhooks.map(({ id }) => id).toSorted())
    const notification = await acme.admin.db.notification.findFirstOrThrow()
    for (const call of calls) {
      const [own = '', other = ''] = call.path.endsWith('0') ? acme.secrets : acme.secrets.toReversed()
      expect(verified(call, own)).toEqual({
        type: 'quota.threshold_reached',
        timestamp: notification.createdAt.toISOString(),
        data: {
          ...{ notificationId: notification.id, tenantId: acme.tenant.id, threshold: 50 },
          ...{ title: notification.title, body: notification.body },
        },
      })
      expect(call.headers).toMatchObject({ 'content-type': 'application/json', 'user-agent': 'Bulkhead' })
      expect(() => verified(call, other)).toThrow('No matching signature')
      expect(() => verified({ ...call, body: `${call.body} ` }, own)).toThrow('No matching signature')
    }
  })

  it('comes again after a failure, under the same id, until it is taken', async () => {
    const acme = await someone(1)
    const answers = [500, 302, 429, 200]
    receiver.answer = (_call, response) => void response.writeHead(answers.shift() ?? 599, { location: '/elsewhere' }).end()
    mail.refuseWith(451)
    await tell(acme.admin)
    startWorker()
    for (const reason of ['It answered 500.', 'It answered 302.', 'It answered 429.']) {
      const reasons = async () => (await entriesOf(acme.admin)).map(({ lastFailure }) => lastFailure)
      await expect.poll(reasons, patience).toEqual(['The mail server answered 451.', reason])
      if (reason.includes('429')) mail.refuseWith(null)
      await makeDue(acme.admin)
    }
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED'])
    expect(new Set(callsTo(acme).map(({ id }) => id)).size).toBe(1)
    expect(callsTo(acme)).toHaveLength(4)
    expect(receiver.calls.filter(({ path }) => path === '/elsewhere')).toEqual([])
    expect((await entriesOf(acme.admin)).map(({ lastFailure }) => lastFailure)).toEqual([null, null])
    expect((await entriesOf(acme.admin)).at(-1)?.attempts).toBe(4)
  })

  it('waits longer after each failure, for about a day, and is given up then', async () => {
    const waits = Array.from({ length: 10 }, (_, n) => n + 1).map((attempts) =>
      Array.from({ length: 200 }, () => retryDelay(attempts)),
    )
    const mean = waits.map((each) => each.reduce((sum, wait) => sum + wait, 0) / each.length)
    const expected = [5, 20, 80, 320, 1_280, 5_120, 20_480, 21_600, 21_600, 21_600].map((seconds) => seconds * 1_000)
    for (const [index, wait] of expected.entries()) {
      expect(Math.min(...(waits[index] ?? []))).toBeGreaterThanOrEqual(wait * 0.75)
      expect(Math.max(...(waits[index] ?? []))).toBeLessThanOrEqual(wait * 1.25)
      expect(Math.abs((mean[index] ?? 0) - wait)).toBeLessThan(wait * 0.05)
    }
    const acme = await someone(1)
    receiver.answer = (_call, response) => void response.writeHead(503).end()
    await tell(acme.admin)
    await selectRows(
      story.database,
      `update outbox set attempts = 10 where tenant_id = '${acme.tenant.id}' and channel = 'WEBHOOK'`,
    )
    startWorker()
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK FAILED'])
    const last = (await entriesOf(acme.admin)).at(-1)
    expect(last).toMatchObject({ attempts: 11, lastFailure: 'It answered 503.', dueAt: null, finishedAt: expect.any(Date) })
  })

  it('is due again as long after a failure as the attempts say', async () => {
    const acme = await someone(1)
    receiver.answer = (_call, response) => void response.writeHead(503).end()
    await tell(acme.admin)
    await selectRows(story.database, `update outbox set attempts = 4 where tenant_id = '${acme.tenant.id}'`)
    startWorker()
    const wait = `select extract(epoch from due_at - now())::float as wait from outbox where last_failure is not null and tenant_id = '${acme.tenant.id}'`
    await expect.poll(async () => (await selectRows(story.database, wait)).length, patience).toBe(1)
    const [row] = await selectRows(story.database, wait)
    expect(row?.['wait']).toBeGreaterThan(1_280 * 0.75 - 30)
    expect(row?.['wait']).toBeLessThanOrEqual(1_280 * 1.25)
  })

  it.each<[string, () => void, string[], (string | null)[]]>([
    [
      'a mailbox that does not exist',
      () => mail.refuseWith(550),
      ['EMAIL FAILED', 'WEBHOOK DELIVERED'],
      ['The mail server answered 550.', null],
    ],
    [
      'a receiver that is gone',
      () => {
        receiver.answer = (_call, response) => void response.writeHead(410).end()
      },
      ['EMAIL DELIVERED', 'WEBHOOK FAILED'],
      [null, 'It answered 410.'],
    ],
  ])('is given up at once for %s', async (_which, refuse, states, reasons) => {
    const acme = await someone(1)
    refuse()
    await tell(acme.admin)
    startWorker()
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(states)
    expect((await entriesOf(acme.admin)).map(({ lastFailure }) => lastFailure)).toEqual(reasons)
  })

  it('is not mailed where no mail server is set, which is warned of once', async () => {
    const [acme, globex] = [await someone(0), await someone(0)]
    const heard: string[] = []
    const courier = createCourier({ egress: story.ports.egress, mail: null, warn: (message) => heard.push(message) })
    startWorker({ ports: { courier } })
    for (const { admin } of [acme, globex, acme]) await tell(admin)
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL FAILED', 'EMAIL FAILED'])
    await expect.poll(() => statesOf(globex.admin), patience).toEqual(['EMAIL FAILED'])
    expect((await entriesOf(globex.admin))[0]).toMatchObject({ attempts: 1, lastFailure: 'There is no mail server.' })
    expect(heard).toEqual(['SMTP_URL is not set: e-mail is not sent.'])
  })

  it('does not reach what is private, by webhook', { tags: ['edge-ssrf'] }, async () => {
    const acme = await someone(1)
    const guarded = createCourier({ egress: createEgress({ allowHttp: true }), mail: null, warn: () => undefined })
    await tell(acme.admin)
    startWorker({ ports: { courier: guarded } })
    const reasons = async () => (await entriesOf(acme.admin)).map(({ lastFailure }) => lastFailure)
    await expect.poll(reasons, patience).toEqual(['There is no mail server.', 'The URL must lead to the public Internet.'])
    expect(callsTo(acme)).toEqual([])
  })

  it('does not go to a webhook that was deleted meanwhile', async () => {
    const acme = await someone(1)
    await tell(acme.admin)
    const { id } = await acme.admin.db.webhook.findFirstOrThrow()
    await deleteWebhook(acme.admin, { webhookId: id })
    startWorker()
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED'])
    expect(callsTo(acme)).toEqual([])
  })

  it('is delivered once by many workers', async () => {
    const tenants = [await someone(3), await someone(3), await someone(3)]
    for (const { admin } of tenants) await tell(admin)
    for (let n = 0; n < 4; n++) startWorker()
    for (const tenant of tenants) {
      await expect
        .poll(() => statesOf(tenant.admin), patience)
        .toEqual(['EMAIL DELIVERED', ...Array(3).fill('WEBHOOK DELIVERED')])
      expect(callsTo(tenant)).toHaveLength(3)
      expect(mail.received.filter(({ to }) => to.includes(`ada@${tenant.tenant.name}.example`))).toHaveLength(1)
    }
  })
})

describe('a slow receiver', () => {
  it("holds up no other tenant's messages", async () => {
    // Takes connections and says nothing.
    const silent = createServer().listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as { port: number }
    const slow = await someone(10, `http://127.0.0.1:${port}/`)
    for (let n = 0; n < 3; n++) await tell(slow.admin)
    startWorker()
    const begun = async () =>
      (await entriesOf(slow.admin)).filter(({ channel, attempts }) => channel === 'WEBHOOK' && attempts > 0)
    await expect.poll(async () => (await begun()).length, patience).toBeGreaterThan(0)
    const others = [await someone(1), await someone(1), await someone(1)]
    for (const { admin } of others) await tell(admin)
    for (const other of others)
      await expect.poll(() => statesOf(other.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED'])
    expect((await begun()).length).toBeLessThanOrEqual(4)
    silent.close()
  })

  it('is given up for now, and holds no transaction open', async () => {
    const acme = await someone(1)
    receiver.answer = () => undefined
    await tell(acme.admin)
    startWorker({ patience: 1_500 })
    await expect.poll(() => callsTo(acme).length, patience).toBe(1)
    const open = `select query from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`
    expect(await selectRows(story.database, open)).toEqual([])
    await expect.poll(async () => (await entriesOf(acme.admin)).at(-1)?.lastFailure, patience).toBe('It took too long.')
  })
})

describe('a worker', () => {
  it('that stops gives back what it was at, at once', async () => {
    const acme = await someone(1)
    receiver.answer = () => undefined
    await tell(acme.admin)
    const stopping = startWorker()
    await expect.poll(() => callsTo(acme).length, patience).toBe(1)
    await stopping.stop()
    expect((await entriesOf(acme.admin)).at(-1)).toMatchObject({ status: 'PENDING', attempts: 0 })
    receiver.answer = (_call, response) => void response.writeHead(200).end()
    startWorker()
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED'])
    expect(new Set(callsTo(acme).map(({ id }) => id)).size).toBe(1)
  })

  it('that was given up, and delivers all the same, has delivered; its failure counts no more', async () => {
    const acme = await someone(2)
    const held: (() => void)[] = []
    receiver.answer = ({ path }, response) => void held.push(() => response.writeHead(path.endsWith('0') ? 200 : 500).end())
    await tell(acme.admin)
    startWorker({ lease: 300 })
    await expect.poll(() => held.length, patience).toBe(2)
    const first = held.splice(0)
    startWorker({ lease: 60_000 })
    await expect.poll(() => held.length, patience).toBe(2)
    for (const answer of first) answer()
    const states = () => acme.admin.db.outboxEntry.findMany({ where: { channel: 'WEBHOOK' }, include: { webhook: true } })
    await expect.poll(async () => (await states()).filter(({ status }) => status === 'DELIVERED').length, patience).toBe(1)
    const failed = (await states()).find(({ webhook }) => webhook?.url.endsWith('1'))
    expect(failed).toMatchObject({ status: 'PENDING', attempts: 2, lastFailure: null })
  })

  it('leaves tenants alone that are being moved', async () => {
    const [acme, globex] = [await someone(1), await someone(1)]
    await tell(acme.admin)
    await selectRows(story.database, `update tenants set fenced_at = now() where id = '${acme.tenant.id}'`)
    await tell(globex.admin)
    startWorker()
    await expect.poll(() => statesOf(globex.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED'])
    expect(await statesOf(acme.admin)).toEqual(['EMAIL PENDING', 'WEBHOOK PENDING'])
    await selectRows(story.database, `update tenants set fenced_at = null where id = '${acme.tenant.id}'`)
    await expect.poll(() => statesOf(acme.admin), patience).toEqual(['EMAIL DELIVERED', 'WEBHOOK DELIVERED'])
  })

  it('whose secrets cannot be opened says so to the operator, and tries again later', async () => {
    const acme = await someone(1)
    await tell(acme.admin)
    story.ports.vault.forget(acme.tenant.id)
    await asAdmin(story.database, (admin) =>
      admin.query(`update data_keys set wrapped_key = 'x' where tenant_id = $1`, [acme.tenant.id]),
    )
    startWorker()
    const reason = async () => (await entriesOf(acme.admin)).at(-1)?.lastFailure
    await expect.poll(reason, patience).toBe('Something went wrong on our side.')
    expect(failures.splice(0)).toHaveLength(1)
    expect((await entriesOf(acme.admin)).at(-1)).toMatchObject({ status: 'PENDING', attempts: 1 })
  })
})
