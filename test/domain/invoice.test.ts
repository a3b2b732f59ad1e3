import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OperatorScope, Principal } from '../../src/domain/authenticate.ts'
import { grantCredit } from '../../src/domain/credit.ts'
import { Conflict, Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { findInvoice } from '../../src/domain/invoice.ts'
import { setPrice, setTenantPrice } from '../../src/domain/price-list.ts'
import { termsAt } from '../../src/domain/pricing.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { enterCalls } from '../support/ledger.ts'
import { signInOperator } from '../support/operator.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

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

const as = (scope: Scope): Principal => ({ kind: 'tenant', scope, expiresAt: null })
const byOperator = (): Principal => ({ kind: 'operator', operator })

/** A call of 1,000 input tokens, 400 of them cached, and 200 output tokens, at the terms of the moment. */
async function call(scope: Scope, model: string, at: number) {
  const terms = await termsAt(scope.db, scope.tenant.id, model, Date.now() + 1_000)
  if (!terms) throw new Error('No price.')
  const { inputNanos, cachedInputNanos, outputNanos } = terms.rates
  const costNanos = Number(600n * inputNanos + 400n * cachedInputNanos + 200n * outputNanos)
  const [priceId, tenantPriceId] = [terms.listed?.id ?? null, terms.agreed?.id ?? null]
  return {
    at,
    model,
    inputTokens: 1_000,
    cachedInputTokens: 400,
    outputTokens: 200,
    costNanos,
    estimated: false,
    priceId,
    tenantPriceId,
  }
}

const thisMonth = () => new Date().toISOString().slice(0, 7)

describe('an invoice', () => {
  it('has a line for each price, margins, credits, and what they come to', async () => {
    const { admin, tenant } = await story.tenant()
    const now = Date.now()
    const listed = await call(admin, 'gpt-4o-mini', now)
    await enterCalls(story.database, admin, [listed, listed])
    await setTenantPrice(operator, { tenantId: tenant.id, model: '*', marginBasisPoints: 1_500, reason: 'x' })
    await enterCalls(story.database, admin, [await call(admin, 'gpt-4o-mini', now)])
    const own = { inputNanos: 1n, cachedInputNanos: 0n, outputNanos: 3n }
    await setTenantPrice(operator, { tenantId: tenant.id, model: 'gpt-4o', rates: own, marginBasisPoints: -3_333, reason: 'x' })
    await enterCalls(story.database, admin, [await call(admin, 'gpt-4o', now)])
    await grantCredit(operator, { tenantId: tenant.id, amountMicros: 100n, reason: 'An outage.', idempotencyKey: newId() })

    const invoice = await findInvoice(as(admin), thisMonth())
    const mini = { inputNanos: 150n, cachedInputNanos: 75n, outputNanos: 600n }
    // 600 × 150 + 400 × 75 + 200 × 600 = 240,000 nano-USD a call.
    expect(invoice.lines).toEqual([
      {
        ...{ model: 'gpt-4o', isCorrection: false, calls: 1n, inputTokens: 600n, cachedInputTokens: 400n, outputTokens: 200n },
        // 600 × 1 + 200 × 3, less 33.33 %: 399.96.
        ...{ rates: own, costNanos: 1_200n, marginBasisPoints: -3_333, marginNanos: -400n },
      },
      {
        ...{
          model: 'gpt-4o-mini',
          isCorrection: false,
          calls: 2n,
          inputTokens: 1_200n,
          cachedInputTokens: 800n,
          outputTokens: 400n,
        },
        ...{ rates: mini, costNanos: 480_000n, marginBasisPoints: 0, marginNanos: 0n },
      },
      {
        ...{
          model: 'gpt-4o-mini',
          isCorrection: false,
          calls: 1n,
          inputTokens: 600n,
          cachedInputTokens: 400n,
          outputTokens: 200n,
        },
        ...{ rates: mini, costNanos: 240_000n, marginBasisPoints: 1_500, marginNanos: 36_000n },
      },
    ])
    expect(invoice).toMatchObject({
      ...{ month: thisMonth(), timeZone: 'UTC', currency: 'USD', isFinal: false, credits: [{ reason: 'An outage.' }] },
      ...{ costNanos: 721_200n, marginNanos: 35_600n, creditNanos: 100_000n, totalNanos: 656_800n },
    })
  })

  it('of a month that is over comes to the same for ever: other prices, other zones, later corrections', async () => {
    const { admin, tenant } = await story.tenant()
    const october = Date.UTC(2026, 9, 31, 23, 30)
    await enterCalls(story.database, admin, [
      await call(admin, 'gpt-4o', october),
      await call(admin, 'gpt-4o', Date.UTC(2026, 10, 1)),
    ])
    const before = await findInvoice(as(admin), '2026-10')
    expect(before).toMatchObject({ isFinal: true, lines: [{ calls: 1n }] })
    await setPrice(operator, { model: 'gpt-4o', inputNanos: 1n, cachedInputNanos: 1n, outputNanos: 1n })
    await setTenantPrice(operator, { tenantId: tenant.id, model: '*', marginBasisPoints: 9_999, reason: 'x' })
    await updateTenantSettings(admin, { timeZone: 'Pacific/Kiritimati' })
    await updateTenantSettings(admin, { timeZone: 'Pacific/Pago_Pago' })
    await asAdmin(story.database, (client) =>
      client.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, correction,
           corrects_id, model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id,
           created_at)
         select gen_random_uuid(), tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, 1, id, model,
           -100, 0, 0, 0, false, -250000, currency, price_id, $3
         from usage_records where tenant_id = $1 and created_at = $2`,
        [tenant.id, new Date(october), new Date(Date.UTC(2026, 10, 15))],
      ),
    )
    expect(await findInvoice(as(admin), '2026-10')).toEqual({ ...before, timeZone: 'Pacific/Pago_Pago' })
    const november = await findInvoice(as(admin), '2026-11')
    expect(november.lines).toMatchObject([
      { isCorrection: false, calls: 1n },
      { isCorrection: true, calls: 0n, inputTokens: -100n, costNanos: -250_000n },
    ])
  })

  it('is the same in a database of the tenant’s own, where prices, agreements and credits arrive at once', {
    timeout: 60_000,
  }, async () => {
    const { admin, tenant } = await story.tenant()
    // Not until now: there a month may have ended that goes on here.
    const zones = JSON.stringify([{ zone: 'Asia/Kolkata', until: Date.UTC(2026, 10, 2) }])
    await asAdmin(story.database, (client) =>
      client.query('update tenants set past_time_zones = $2 where id = $1', [tenant.id, zones]),
    )
    await enterCalls(story.database, admin, [
      await call(admin, 'o3', Date.UTC(2026, 9, 31, 18, 29)),
      await call(admin, 'o3', Date.now()),
    ])
    await setTenantPrice(operator, { tenantId: tenant.id, model: '*', marginBasisPoints: 100, reason: 'x' })
    const [october, november] = [await findInvoice(as(admin), '2026-10'), await findInvoice(as(admin), thisMonth())]
    {
      await using moving = testMover(story.database)
      await moving.mover.place(tenant.name, own.adminUrl)
    }
    await story.catalog.placements.refresh()
    expect(await findInvoice(as(admin), '2026-10')).toEqual(october)
    expect(await findInvoice(as(admin), thisMonth())).toEqual(november)

    await setPrice(operator, { model: 'o3', inputNanos: 9n, cachedInputNanos: 9n, outputNanos: 9n })
    await setTenantPrice(operator, { tenantId: tenant.id, model: '*', marginBasisPoints: 700, reason: 'x' })
    await grantCredit(operator, { tenantId: tenant.id, amountMicros: 3n, reason: 'x', idempotencyKey: newId() })
    expect(await termsAt(admin.db, tenant.id, 'o3', Date.now() + 1_000)).toMatchObject({
      ...{ rates: { inputNanos: 9n }, agreed: { marginBasisPoints: 700, version: 2 } },
    })
    expect(await findInvoice(byOperator(), thisMonth(), tenant.id)).toMatchObject({ creditNanos: 3_000n })
  })

  it('is for the admins of the tenant, and for operators', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    await enterCalls(story.database, acme.admin, [await call(acme.admin, 'gpt-4o', Date.UTC(2026, 5, 6))])
    expect((await findInvoice(byOperator(), '2026-06', acme.tenant.id)).lines).toHaveLength(1)
    expect((await findInvoice(as(acme.admin), '2026-06', acme.tenant.id)).lines).toHaveLength(1)
    expect((await findInvoice(as(globex.admin), '2026-06')).lines).toEqual([])
    await expect(findInvoice(as(globex.admin), '2026-06', acme.tenant.id)).rejects.toThrow(NotFound)
    for (const scope of [acme.member, acme.endUser]) await expect(findInvoice(as(scope), '2026-06')).rejects.toThrow(Forbidden)
    await expect(findInvoice(byOperator(), '2026-06')).rejects.toThrow(ValidationProblem)
    await expect(findInvoice(byOperator(), '2026-06', newId())).rejects.toThrow(NotFound)
  })

  it.each(['2999-01', '2026-13', 'June', ''])('is refused for the month %j', async (month) => {
    const { admin } = await story.tenant()
    await expect(findInvoice(as(admin), month)).rejects.toMatchObject({ path: ['month'] })
  })
})

describe('a credit', () => {
  it('is given once for each key, and not for nothing', async () => {
    const { tenant, admin } = await story.tenant()
    const credit = { tenantId: tenant.id, amountMicros: 5n, reason: 'x', idempotencyKey: newId() }
    const given = await Promise.all([1, 2, 3].map(() => grantCredit(operator, credit)))
    expect(new Set(given.map((each) => each.credit.id)).size).toBe(1)
    expect((await findInvoice(as(admin), thisMonth())).creditNanos).toBe(5_000n)
    await expect(grantCredit(operator, { ...credit, amountMicros: 6n })).rejects.toThrow(Conflict)
    for (const amountMicros of [0n, -1n, 10n ** 15n])
      await expect(grantCredit(operator, { ...credit, amountMicros })).rejects.toMatchObject({ path: ['amountMicros'] })
    await expect(grantCredit(operator, { ...credit, tenantId: newId() })).rejects.toThrow(NotFound)
    await expect(grantCredit(operator, { ...credit, idempotencyKey: '' })).rejects.toThrow(ValidationProblem)
  })
})
