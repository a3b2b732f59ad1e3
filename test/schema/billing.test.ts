import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import {
  costQuery,
  grantCreditMutation,
  invoiceQuery,
  pricesQuery,
  quoteQuery,
  setPriceMutation,
  setTenantPriceMutation,
  simulatePlanQuery,
} from '../operations/billing.ts'
import type { Api } from '../support/api.ts'
import { say } from '../support/conversing.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let operator: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  operator = platform.api(await operatorKey(platform.story))
})

afterAll(() => platform.stop())

const month = () => new Date().toISOString().slice(0, 7)

async function answered(api: Api): Promise<string> {
  const { runId } = await say(api, 'Hi.')
  for await (const _event of api.client.events('subscription ($id: ID!) { agentReply(runId: $id) { __typename } }', {
    id: runId,
  }));
  return runId
}

describe('from a price to an invoice', () => {
  it('a call is charged at what operators set and agreed on, and the invoice says so', async () => {
    const { tenant, keys } = await platform.story.tenant()
    const tenantId = encodeId('Tenant', tenant.id)
    const [admin, member] = [platform.api(keys.admin), platform.api(keys.member)]
    const priced = await operator.data(setPriceMutation, {
      input: { model: 'gpt-4o-mini', inputNanos: 1_000_000, outputNanos: 2_000_000 },
    })
    expect(priced.setPrice).toEqual({
      __typename: 'SetPricePayload',
      price: {
        ...{ model: 'gpt-4o-mini', version: 2, inputNanos: 1_000_000, cachedInputNanos: 1_000_000, outputNanos: 2_000_000 },
        createdBy: 'Olga',
      },
    })
    const agreed = await operator.data(setTenantPriceMutation, {
      input: { tenantId, model: '*', marginBasisPoints: 1_000, reason: 'The contract.' },
    })
    expect(agreed.setTenantPrice).toMatchObject({ tenantPrice: { version: 1, inputNanos: null, marginBasisPoints: 1_000 } })

    const runId = await answered(member)
    const { invoice } = await admin.data(invoiceQuery, { month: month() })
    const [line] = invoice.lines
    expect(invoice.lines).toHaveLength(1)
    const { inputTokens, outputTokens } = line ?? { inputTokens: 0, outputTokens: 0 }
    const cost = Number(inputTokens) * 1_000 + Number(outputTokens) * 2_000
    expect(line).toMatchObject({
      model: 'gpt-4o-mini',
      isCorrection: false,
      calls: 1,
      inputNanos: 1_000_000,
      cost: { micros: cost },
    })
    expect(line).toMatchObject({ marginBasisPoints: 1_000, margin: { micros: cost / 10 }, amount: { micros: cost * 1.1 } })
    const { run } = await member.data(costQuery, { runId })
    expect(run).toEqual({ cost: { micros: cost }, conversation: { cost: { micros: cost } } })

    const credit = { tenantId, amountMicros: 50_000_000, reason: 'An outage.', idempotencyKey: `credit-${tenant.id}` }
    for (const _ of [1, 2]) {
      const { grantCredit } = await operator.data(grantCreditMutation, { input: credit })
      expect(grantCredit).toMatchObject({ credit: { reason: 'An outage.', amount: { formatted: '$50.00' } } })
    }
    const { invoice: less } = await operator.data(invoiceQuery, { month: month(), tenantId })
    expect(less).toMatchObject({
      currency: 'USD',
      isFinal: false,
      credit: { micros: 50_000_000 },
      credits: [{ reason: 'An outage.' }],
    })
    expect(less.total.micros).toBe(cost * 1.1 - 50_000_000)
    expect(less.total.formatted).toMatch(/^-\$49\.\d+$/)

    const { prices, tenantPrices } = await operator.data(pricesQuery, { model: 'gpt-4o-mini', tenantId })
    expect(prices).toEqual([
      { model: 'gpt-4o-mini', version: 1, inputNanos: 150 },
      { model: 'gpt-4o-mini', version: 2, inputNanos: 1_000_000 },
    ])
    expect(tenantPrices).toEqual([{ model: '*', version: 1, marginBasisPoints: 1_000 }])
  })

  it('a quote and a simulated plan are there for whom they are for', async () => {
    const { tenant, keys } = await platform.story.tenant()
    const member = platform.api(keys.member)
    await answered(member)
    const { quoteRun } = await member.data(quoteQuery, { content: 'How much?' })
    expect(quoteRun.leastTokens).toBeLessThan(quoteRun.mostTokens)
    expect(Number(quoteRun.least.micros)).toBeLessThan(Number(quoteRun.most.micros))
    const range = { from: '2026-01-01T00:00:00Z', to: '2026-12-31T00:00:00Z' }
    const { simulatePlan } = await operator.data(simulatePlanQuery, {
      tenantId: encodeId('Tenant', tenant.id),
      plan: 'FREE',
      range,
    })
    expect(simulatePlan).toMatchObject({ plan: 'FREE', messages: 1, refused: [], cutShort: 0 })
    expect(simulatePlan.cost).toEqual(simulatePlan.actualCost)
  })
})

describe('bad input and the wrong role', () => {
  it('are told what is wrong', async () => {
    const { tenant, keys } = await platform.story.tenant()
    const tenantId = encodeId('Tenant', tenant.id)
    const [admin, member] = [platform.api(keys.admin), platform.api(keys.member)]
    const codeOf = async (asked: ReturnType<Api['ask']>) => (await asked).errors?.[0]?.extensions?.['code']
    expect(await codeOf(member.ask(invoiceQuery, { month: month() }))).toBe('FORBIDDEN')
    for (const wrong of ['2999-01', '2026-00', 'now'])
      expect(await codeOf(admin.ask(invoiceQuery, { month: wrong }))).toBe('BAD_USER_INPUT')
    expect(await codeOf(operator.ask(invoiceQuery, { month: month() }))).toBe('BAD_USER_INPUT')
    const other = encodeId('Tenant', platform.acme.tenant.id)
    expect(await codeOf(admin.ask(invoiceQuery, { month: month(), tenantId: other }))).toBe('NOT_FOUND')
    for (const api of [admin, member]) expect(await codeOf(api.ask(pricesQuery, { tenantId }))).toBe('FORBIDDEN')
    expect(await codeOf(platform.api(keys.endUser).ask(quoteQuery, { content: 'x' }))).toBe('FORBIDDEN')

    const price = { model: 'gpt-4o', inputNanos: 1, outputNanos: 1 }
    const refused = await admin.data(setPriceMutation, { input: price })
    expect(refused.setPrice.__typename).toBe('Forbidden')
    for (const [wrong, path] of [
      [{ inputNanos: -1 }, 'inputNanos'],
      [{ validFrom: '2020-01-01T00:00:00Z' }, 'validFrom'],
      [{ validTo: '2020-01-01T00:00:00Z' }, 'validTo'],
    ] as const) {
      const { setPrice } = await operator.data(setPriceMutation, { input: { ...price, ...wrong } })
      expect(setPrice).toEqual({ __typename: 'ValidationProblem', path: [path] })
    }
  })
})
