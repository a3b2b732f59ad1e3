import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { Conflict, NotFound, Unavailable, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { readQuota } from '../../src/domain/quota.ts'
import { measureDrift } from '../../src/domain/quota-drift.ts'
import { type CorrectUsageInput, correctUsage } from '../../src/domain/usage-correction.ts'
import { reportUsage } from '../../src/domain/usage-report.ts'
import { createWebhook } from '../../src/domain/webhook.ts'
import { signInOperator } from '../support/operator.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

const day = 86_400_000

let story: Story
let own: TestDatabase
let operator: OperatorScope

beforeAll(async () => {
  ;[story, own] = await Promise.all([startStory(), createTestDatabase({ empty: true })])
  operator = await signInOperator(story)
})

afterAll(async () => {
  await story.close()
  await own.drop()
})

const price = { inputNanos: 100n, cachedInputNanos: 10n, outputNanos: 1_000n }

/** A model call of 1,000 tokens in, 400 of them cached, and 200 out, 50 of them reasoning. Answers its id. */
async function enterCall({ tenant }: TenantStory, { daysAgo = 0, agreed = false } = {}): Promise<string> {
  const [id, priceId, tenantPriceId] = [newId(), newId(), newId()]
  await asAdmin(story.database, async (admin) => {
    const nanos = [price.inputNanos, price.cachedInputNanos, price.outputNanos]
    await admin.query(
      `insert into prices (id, model, version, currency, input_nanos, cached_input_nanos, output_nanos, valid_from)
       values ($1, $2, 1, 'USD', $3, $4, $5, '2020-01-01')`,
      [priceId, priceId, ...(agreed ? [7, 7, 7] : nanos)],
    )
    await admin.query(
      `insert into tenant_prices (id, tenant_id, model, version, input_nanos, cached_input_nanos, output_nanos, margin_basis_points, valid_from)
       values ($1, $2, $3, 1, $4, $5, $6, 0, '2020-01-01')`,
      [tenantPriceId, tenant.id, tenantPriceId, ...nanos],
    )
    await admin.query(
      `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
         cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id, tenant_price_id, created_at)
       values ($1, $2, $3, $4, $5, 1, 2, 0, 3, 'gpt-4o', 1000, 400, 200, 50, true, 264000, 'USD', $6, $7, $8)`,
      [
        ...[id, tenant.id, newId(), newId(), tenant.defaultAgentId, priceId, agreed ? tenantPriceId : null],
        new Date(Date.now() - daysAgo * day),
      ],
    )
  })
  return id
}

type Change = Omit<CorrectUsageInput, 'tenantId' | 'usageRecordId' | 'reason'>

const correct = ({ tenant }: TenantStory, usageRecordId: string, change: Change) =>
  correctUsage(operator, { tenantId: tenant.id, usageRecordId, reason: 'The provider says so.', ...change })

const rowsOf = ({ tenant }: TenantStory) =>
  selectRows(story.database, `select * from usage_records where tenant_id = '${tenant.id}' order by correction, created_at`)

async function spent({ tenant, admin }: TenantStory): Promise<number> {
  const reading = await readQuota(admin)
  const ledger = await admin.quotaSource.counts(reading.terms, reading.now)
  expect(reading.spent, tenant.name).toBe(ledger.spent)
  expect(await measureDrift(admin)).toBe(0)
  return reading.spent
}

describe('a correction', () => {
  it('can be of figures that together are more than a small number holds, and taken back', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    const most = 100_000_000
    for (let index = 0; index < 12; index++) {
      const other = await enterCall(tenant)
      await correct(tenant, other, { inputTokens: most, outputTokens: most })
    }
    expect(await spent(tenant)).toBe(1_200 + 12 * 2 * most)
    await expect(correct(tenant, call, { inputTokens: most + 1 })).rejects.toMatchObject({ path: ['inputTokens'] })
  })

  it('is told of to whom usage is told of', async () => {
    const tenant = await story.tenant()
    const { webhook } = await createWebhook(tenant.admin, { url: 'https://hooks.example.com/', events: ['USAGE'] })
    const call = await enterCall(tenant)
    await correct(tenant, call, { outputTokens: 100 })
    const [message] = await selectRows(story.database, `select payload from outbox where webhook_id = '${webhook.id}'`)
    expect(message?.['payload']).toMatchObject({ data: { outputTokens: -100, correction: 1, correctsId: call } })
  })

  it('adds the difference to the call and its corrections so far, at the price of the call, as of now', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant, { daysAgo: 70 })
    const first = await correct(tenant, call, { inputTokens: 900, outputTokens: 250, reasoningTokens: 60 })
    // 500 × 100 + 400 × 10 + 250 × 1,000
    expect(first.total).toMatchObject({
      calls: 1n,
      inputTokens: 900n,
      outputTokens: 250n,
      reasoningTokens: 60n,
      costNanos: 304_000n,
    })
    const difference = { inputTokens: -100, cachedInputTokens: 0, outputTokens: 50, reasoningTokens: 10, costNanos: 40_000n }
    expect(first.correction).toMatchObject({
      ...difference,
      correction: 1,
      correctsId: call,
      estimated: false,
      runId: expect.any(String),
    })
    const second = await correct(tenant, call, { cachedInputTokens: 0, outputTokens: 250 })
    expect(second.correction).toMatchObject({ inputTokens: 0, cachedInputTokens: -400, outputTokens: 0, correction: 2 })
    // 900 × 100 + 250 × 1,000
    expect(second.total.costNanos).toBe(340_000n)
    const [original, ...corrections] = await rowsOf(tenant)
    expect(original).toMatchObject({ id: call, correction: 0, input_tokens: 1_000, cost_nanos: '264000' })
    for (const row of corrections) {
      const { run_id, turn, attempt, price_id, conversation_id, agent_id, model } = original ?? {}
      expect(row).toMatchObject({ run_id, turn, attempt, price_id, conversation_id, agent_id, model, corrects_id: call })
      expect(Date.now() - (row['created_at'] as Date).getTime()).toBeLessThan(60_000)
    }
    const month = { from: new Date(Date.now() - 80 * day), to: new Date(Date.now() - 60 * day) }
    const { total } = await reportUsage({ kind: 'tenant', scope: tenant.admin, expiresAt: null }, { range: month, groupBy: [] })
    expect(total).toMatchObject({ calls: 1n, costNanos: 264_000n })
  })

  it('is charged at what was agreed with the tenant, when the call was', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant, { agreed: true })
    expect((await correct(tenant, call, { outputTokens: 300 })).correction).toMatchObject({ costNanos: 100_000n })
  })

  it('counts against the budget of the month under way at once, whichever month the call was in', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    expect(await spent(tenant)).toBe(1_200)
    await correct(tenant, call, { inputTokens: 2_000 })
    expect(await spent(tenant)).toBe(2_200)
    await correct(tenant, call, { inputTokens: 400, outputTokens: 50 })
    expect(await spent(tenant)).toBe(450)
    // What was charged too much before is there to be spent now.
    await correct(tenant, await enterCall(tenant, { daysAgo: 70 }), { inputTokens: 400, outputTokens: 50 })
    expect(await spent(tenant)).toBe(-300)
  })

  it('of what is right already changes nothing', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    expect(await correct(tenant, call, {})).toMatchObject({ correction: null, total: { costNanos: 264_000n } })
    await correct(tenant, call, { outputTokens: 100 })
    expect((await correct(tenant, call, { outputTokens: 100, inputTokens: 1_000 })).correction).toBeNull()
    expect(await rowsOf(tenant)).toHaveLength(2)
    expect(await audited(tenant)).toHaveLength(1)
  })

  const audited = ({ tenant }: TenantStory) =>
    selectRows(story.database, `select * from audit_events where tenant_id = '${tenant.id}' and action = 'correctUsage'`)

  it('is in the audit log of the tenant, with its reason', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    await correct(tenant, call, { outputTokens: 100 })
    const [event] = await audited(tenant)
    expect(event).toMatchObject({ actor_kind: 'OPERATOR', actor_name: 'Olga', subject: 'UsageRecord', subject_id: call })
    const from = { inputTokens: 1_000, cachedInputTokens: 400, outputTokens: 200, reasoningTokens: 50 }
    const details = { reason: 'The provider says so.', from, to: { ...from, outputTokens: 100 }, costNanos: '-100000' }
    expect(event?.['details']).toEqual(details)
  })

  it.each([
    ['inputTokens', { inputTokens: -1 }],
    ['reasoningTokens', { reasoningTokens: -1 }],
    ['cachedInputTokens', { inputTokens: 399 }],
    ['cachedInputTokens', { cachedInputTokens: 1_001 }],
    ['reasoningTokens', { outputTokens: 49 }],
  ])('is refused at %s for figures that cannot be: %o', async (path, change) => {
    const tenant = await story.tenant()
    const refused = await correct(tenant, await enterCall(tenant), change).catch((error) => error)
    expect([refused, refused.path]).toEqual([expect.any(ValidationProblem), [path]])
    expect(await rowsOf(tenant)).toHaveLength(1)
  })

  it('is refused for a correction, a blank reason, and what is not there', { tags: ['rule-12'] }, async () => {
    const [tenant, other] = [await story.tenant(), await story.tenant()]
    const call = await enterCall(tenant)
    const { correction } = await correct(tenant, call, { outputTokens: 100 })
    await expect(correct(tenant, correction?.id ?? '', { outputTokens: 1 })).rejects.toThrow('Name the call that it corrects')
    const blank = { tenantId: tenant.tenant.id, usageRecordId: call, reason: ' ', outputTokens: 1 }
    await expect(correctUsage(operator, blank)).rejects.toThrow(ValidationProblem)
    for (const id of [newId(), 'nonsense']) await expect(correct(tenant, id, { outputTokens: 1 })).rejects.toThrow(NotFound)
    await expect(correct(other, call, { outputTokens: 1 })).rejects.toThrow(NotFound)
    await expect(correctUsage(operator, { ...blank, tenantId: newId(), reason: 'So.' })).rejects.toThrow(NotFound)
  })

  it('of several at once is made one after the other, so that the call comes to the last', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    const wanted = [10, 20, 30, 40, 50, 60].map((outputTokens) => ({ outputTokens, reasoningTokens: 0 }))
    const done = await Promise.all(wanted.map((change) => correct(tenant, call, change)))
    expect(done.map(({ correction }) => correction?.correction).toSorted()).toEqual([1, 2, 3, 4, 5, 6])
    for (const [index, { total }] of done.entries()) expect(total.outputTokens).toBe(BigInt(wanted[index]?.outputTokens ?? 0))
    const rows = await rowsOf(tenant)
    const last = done.find(({ correction }) => correction?.correction === 6)
    expect(rows.reduce((sum, row) => sum + Number(row['output_tokens']), 0)).toBe(Number(last?.total.outputTokens))
    expect(await spent(tenant)).toBe(1_000 + Number(last?.total.outputTokens))
  })

  it('is made once under a key, however often it is called', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    const again = { outputTokens: 100, idempotencyKey: 'once' }
    const answers = await Promise.all([1, 2, 3].map(() => correct(tenant, call, again)))
    await correct(tenant, call, { outputTokens: 150 })
    const late = await correct(tenant, call, again)
    const ids = [...answers, late].map(({ correction }) => correction?.id)
    expect([new Set(ids).size, ids[0]]).toEqual([1, expect.any(String)])
    expect(await rowsOf(tenant)).toHaveLength(3)
    await expect(correct(tenant, call, { ...again, outputTokens: 101 })).rejects.toThrow(Conflict)
  })

  it('that the counters could not be told of is told by repeating it', async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    expect(await spent(tenant)).toBe(1_200)
    const doubt = async () => {
      throw new Unavailable('The counters are away.', 1)
    }
    const cutOff = {
      ...operator,
      ports: { ...operator.ports, admission: { doubt } as unknown as typeof operator.ports.admission },
    }
    const input = { tenantId: tenant.tenant.id, usageRecordId: call, outputTokens: 100, reason: 'So.' }
    await expect(correctUsage(cutOff, input)).rejects.toThrow(Unavailable)
    expect((await readQuota(tenant.admin)).spent).toBe(1_200)
    expect((await correctUsage(operator, input)).correction).toBeNull()
    expect(await spent(tenant)).toBe(1_100)
  })

  it('is made where the tenant is', { timeout: 60_000 }, async () => {
    const tenant = await story.tenant()
    const call = await enterCall(tenant)
    {
      await using moving = testMover(story.database)
      await moving.mover.place(tenant.tenant.name, own.adminUrl)
    }
    await story.catalog.placements.refresh()
    expect((await correct(tenant, call, { outputTokens: 100 })).correction).toMatchObject({ correction: 1 })
    expect(await selectRows(own, 'select correction from usage_records order by 1')).toEqual([
      { correction: 0 },
      { correction: 1 },
    ])
    expect(await rowsOf(tenant)).toEqual([])
  })
})
