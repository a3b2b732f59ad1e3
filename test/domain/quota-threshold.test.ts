import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QuotaReading } from '../../src/domain/admission.ts'
import type { Ports } from '../../src/domain/ports.ts'
import { noticeThresholds } from '../../src/domain/quota-threshold.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { type Story, startStory, type TenantStory, withoutSignals } from '../support/story.ts'
import { addRows, selectRows } from '../support/tenant-rows.ts'

let story: Story
let acme: TenantStory

const settings = { quotaThresholds: [80, 95, 100], timeZone: 'Europe/Berlin' }
// November of 2026, and its 29th, in Berlin.
const month = { start: Date.parse('2026-10-31T23:00:00Z'), end: Date.parse('2026-11-30T23:00:00Z') }
const day = { start: Date.parse('2026-11-28T23:00:00Z'), end: Date.parse('2026-11-29T23:00:00Z') }

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

/** A new tenant, so that nothing was told of it before. */
async function someone(): Promise<Scope> {
  acme = await story.tenant()
  return acme.admin
}

function reading(used: { spent?: number; today?: number }, change: Partial<QuotaReading['terms']> = {}): QuotaReading {
  const limits = {
    ...{ MESSAGES_PER_MINUTE: 10, MESSAGES_PER_DAY: 100, TOKENS_PER_MESSAGE: 2_000, CONCURRENT_SESSIONS: 5 },
    MONTHLY_TOKENS: 10_000,
  }
  const terms = { version: 0, limits, validUntil: null, day, month, ...change }
  const now = day.start + 1
  return { now, terms, minute: 0, minuteResetAt: now, today: 0, sessions: 0, spent: 0, reserved: 0, ...used }
}

/** As another process sees the tenant, which knows nothing of what was told here. */
function elsewhere(scope: Scope): Scope {
  return { ...scope, ports: { ...scope.ports, signals: new MemorySignals({ onError: scope.ports.report }) } }
}

const keysOf = async ({ db }: Scope) =>
  (await db.notification.findMany({ orderBy: { id: 'asc' } })).map(({ dedupeKey }) => dedupeKey)

describe('a threshold that is reached', () => {
  it('is told once for each limit and period, by what it is a threshold of', async () => {
    const scope = await someone()
    await noticeThresholds(scope, settings, reading({ spent: 7_999, today: 79 }))
    expect(await keysOf(scope)).toEqual([])
    await noticeThresholds(scope, settings, reading({ spent: 8_000, today: 79 }))
    expect(await keysOf(scope)).toEqual(['MONTHLY_TOKENS/2026-11/80'])
    await noticeThresholds(scope, settings, reading({ spent: 9_999, today: 96 }))
    await noticeThresholds(scope, settings, reading({ spent: 10_000, today: 96 }))
    await noticeThresholds(elsewhere(scope), settings, reading({ spent: 10_000, today: 96 }))
    const [first, ...more] = await scope.db.notification.findMany({ orderBy: { id: 'asc' } })
    expect(more.map(({ dedupeKey }) => dedupeKey)).toEqual([
      'MONTHLY_TOKENS/2026-11/95',
      'MESSAGES_PER_DAY/2026-11-29/80',
      'MESSAGES_PER_DAY/2026-11-29/95',
      'MONTHLY_TOKENS/2026-11/100',
    ])
    const { name } = scope.tenant
    expect(first).toMatchObject({
      kind: 'QUOTA_THRESHOLD_REACHED',
      title: `${name}: 80 % of the month's tokens are used`,
      body: `${name} has used 8,000 of the 10,000 tokens of 2026-11. The next month begins at 2026-12-01 00:00 (Europe/Berlin).`,
      details: {
        ...{ limit: 'MONTHLY_TOKENS', threshold: 80, used: 8_000, max: 10_000, period: '2026-11' },
        ...{ periodStart: '2026-10-31T23:00:00.000Z', periodEnd: '2026-11-30T23:00:00.000Z' },
      },
    })
  })

  it('is told again in the next period', async () => {
    const scope = await someone()
    await noticeThresholds(scope, settings, reading({ today: 80 }))
    const next = { start: day.end, end: day.end + 86_400_000 }
    await noticeThresholds(scope, settings, reading({ today: 80 }, { day: next }))
    expect(await keysOf(scope)).toEqual(['MESSAGES_PER_DAY/2026-11-29/80', 'MESSAGES_PER_DAY/2026-11-30/80'])
  })

  it('is not told again when the tenant moves to another time zone within the period', async () => {
    const scope = await someone()
    await noticeThresholds(scope, settings, reading({ spent: 8_000, today: 80 }))
    const terms = {
      day: { start: Date.parse('2026-11-29T05:00:00Z'), end: Date.parse('2026-11-30T05:00:00Z') },
      month: { start: Date.parse('2026-11-01T04:00:00Z'), end: Date.parse('2026-12-01T05:00:00Z') },
    }
    await noticeThresholds(scope, { ...settings, timeZone: 'America/New_York' }, reading({ spent: 8_000, today: 80 }, terms))
    expect(await keysOf(scope)).toEqual(['MONTHLY_TOKENS/2026-11/80', 'MESSAGES_PER_DAY/2026-11-29/80'])
  })

  it('is one of the limit as it is now, and of the thresholds as they are now', async () => {
    const scope = await someone()
    const { limits } = reading({}).terms
    const of = (max: number) => reading({ spent: 8_000 }, { limits: { ...limits, MONTHLY_TOKENS: max } })
    await noticeThresholds(scope, settings, of(10_000))
    await noticeThresholds(scope, settings, of(100_000))
    expect(await keysOf(scope)).toEqual(['MONTHLY_TOKENS/2026-11/80'])
    await noticeThresholds(scope, { ...settings, quotaThresholds: [5, 50] }, of(100_000))
    await noticeThresholds(scope, settings, of(8_000))
    const told = ['80', '5', '95', '100'].map((threshold) => `MONTHLY_TOKENS/2026-11/${threshold}`)
    expect(await keysOf(scope)).toEqual(told)
  })

  it('is all of it when the limit refuses, though a rest is left that is too small for anything', async () => {
    const scope = await someone()
    await noticeThresholds(scope, settings, reading({ spent: 9_990 }), 'MONTHLY_TOKENS')
    const told = ['80', '95', '100'].map((threshold) => `MONTHLY_TOKENS/2026-11/${threshold}`)
    expect(await keysOf(scope)).toEqual(told)
    const last = await scope.db.notification.findFirst({ where: { dedupeKey: 'MONTHLY_TOKENS/2026-11/100' } })
    expect(last).toMatchObject({ title: expect.stringContaining('are used up'), details: { used: 9_990 } })
  })

  it('is written to each member who is an admin, and to each webhook, with the notification or not at all', async () => {
    const scope = await someone()
    const [tenantId, dataKeyId] = [scope.tenant.id, randomUUID()]
    const webhook = { tenantId, url: 'https://a.example/', ciphertext: Buffer.from('c'), dataKeyId }
    const [one, other] = [randomUUID(), randomUUID()]
    await addRows(story.database, { DataKey: { id: dataKeyId, tenantId, wrappedKey: Buffer.from('k'), wrappingKeyId: 'w' } })
    await addRows(story.database, { Webhook: { id: one, ...webhook } })
    await addRows(story.database, { Webhook: { id: other, ...webhook } })
    const bea = { id: randomUUID(), tenantId, name: 'Bea', email: 'bea@acme.example', role: 'ADMIN' }
    await addRows(story.database, { Member: bea })
    await noticeThresholds(scope, settings, reading({ spent: 8_000 }))
    const { id, title, body, details, createdAt } = await scope.db.notification.findFirstOrThrow()
    const entries = await scope.db.outboxEntry.findMany({ orderBy: { id: 'asc' } })
    expect(entries.map(({ channel, status, attempts, notificationId }) => [channel, status, attempts, notificationId])).toEqual([
      ['EMAIL', 'PENDING', 0, id],
      ['EMAIL', 'PENDING', 0, id],
      ['WEBHOOK', 'PENDING', 0, id],
      ['WEBHOOK', 'PENDING', 0, id],
    ])
    const mails = entries.slice(0, 2).map(({ payload }) => payload as { to: string })
    expect(mails.map(({ to }) => to).toSorted()).toEqual([`ada@${scope.tenant.name}.example`, 'bea@acme.example'])
    expect(mails[0]).toEqual({ to: expect.any(String), subject: title, text: body })
    const posts = entries.slice(2)
    expect(posts.map(({ webhookId }) => webhookId).toSorted()).toEqual([one, other].toSorted())
    expect(posts[0]?.payload).toEqual({
      type: 'quota.threshold_reached',
      timestamp: createdAt.toISOString(),
      data: { notificationId: id, tenantId, title, body, ...(details as object) },
    })
  })

  it('is told once when 40 readings of 4 processes show it at the same time', async () => {
    const scope = await someone()
    const processes = [scope, elsewhere(scope), elsewhere(scope), elsewhere(scope)]
    const readings = Array.from({ length: 40 }, (_, n) =>
      noticeThresholds(processes[n % 4] as Scope, settings, reading({ spent: 10_000, today: 100 })),
    )
    await Promise.all(readings)
    expect(new Set(await keysOf(scope)).size).toBe(6)
    expect(await keysOf(scope)).toHaveLength(6)
    expect(await scope.db.outboxEntry.count()).toBe(6)
    const signals = story.signals.filter(({ type, tenantId }) => type === 'NotificationCreated' && tenantId === scope.tenant.id)
    expect(signals.length).toBeLessThanOrEqual(6)
  })

  it('costs nothing once it is told', async () => {
    const scope = await someone()
    await noticeThresholds(scope, settings, reading({ spent: 8_000 }))
    const untouchable = new Proxy(scope.db, {
      get() {
        throw new Error('The database is asked.')
      },
    })
    const failures: unknown[] = []
    const ports: Ports = { ...scope.ports, report: (error) => void failures.push(error) }
    await noticeThresholds({ ...scope, db: untouchable, ports }, settings, reading({ spent: 8_500, today: 3 }))
    expect(failures).toEqual([])
    await noticeThresholds({ ...scope, db: untouchable, ports }, settings, reading({ spent: 9_500 }))
    expect(failures).toEqual([new Error('The database is asked.')])
  })

  it('is told with a later reading when it could not be told, and when nobody could be woken it is told all the same', async () => {
    const scope = await someone()
    const failures: unknown[] = []
    const ports: Ports = { ...scope.ports, report: (error) => void failures.push(error) }
    await selectRows(story.database, 'alter table outbox add constraint broken check (false) not valid')
    await noticeThresholds({ ...scope, ports }, settings, reading({ spent: 8_000 }))
    expect(failures).toHaveLength(1)
    expect(await keysOf(scope)).toEqual([])
    await selectRows(story.database, 'alter table outbox drop constraint broken')
    await noticeThresholds(withoutSignals(scope), settings, reading({ spent: 8_000 }))
    expect(await keysOf(scope)).toEqual(['MONTHLY_TOKENS/2026-11/80'])
  })

  it('waits while the tenant is being moved', async () => {
    const scope = await someone()
    const fence = (value: string) =>
      selectRows(story.database, `update tenants set fenced_at = ${value} where id = '${scope.tenant.id}'`)
    await fence('now()')
    await noticeThresholds(scope, settings, reading({ spent: 8_000 }))
    await fence('null')
    expect(await keysOf(scope)).toEqual([])
    await noticeThresholds(scope, settings, reading({ spent: 8_000 }))
    expect(await keysOf(scope)).toEqual(['MONTHLY_TOKENS/2026-11/80'])
  })
})
