import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { eraseTenant } from '../../src/domain/erasure.ts'
import { newId } from '../../src/domain/ids.ts'
import type { ModelUsage } from '../../src/domain/provider-usage.ts'
import { compareUsage, sumLedgers } from '../../src/domain/reconciliation.ts'
import { correctUsage } from '../../src/domain/usage-correction.ts'
import { sumAll } from '../../src/domain/usage-rollup.ts'
import { signInOperator } from '../support/operator.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

const usage = (inputTokens: number, more: Partial<ModelUsage> = {}): ModelUsage => ({
  ...{ requests: 1n, inputTokens: BigInt(inputTokens), cachedInputTokens: 0n, outputTokens: 100n },
  ...more,
})

/** The model, its input tokens here and there, and by how many percent they differ. */
const compared = (ours: Record<string, ModelUsage>, theirs: Record<string, ModelUsage>) =>
  compareUsage(new Map(Object.entries(ours)), new Map(Object.entries(theirs))).map(
    ({ model, ours: we, theirs: they, percent }) => [...[model, Number(we.inputTokens), Number(they.inputTokens), percent]],
  )

describe('a comparison with a provider', () => {
  it('is by model, by the figure that differs most, and tells requests without judging them', () => {
    expect(compared({ b: usage(99), a: usage(100) }, { a: usage(100, { requests: 7n }), b: usage(100) })).toEqual([
      ['a', 100, 100, 0],
      ['b', 99, 100, 1],
    ])
    expect(compared({ m: usage(1_000, { outputTokens: 50n }) }, { m: usage(1_000) })).toEqual([['m', 1_000, 1_000, 50]])
    expect(compared({ m: usage(10, { cachedInputTokens: 2n }) }, { m: usage(10, { cachedInputTokens: 4n }) })[0]?.[3]).toBe(50)
  })

  it('has models that one of the two knows alone', () => {
    expect(compared({ ours: usage(5) }, { theirs: usage(5) })).toEqual([
      ['ours', 5, 0, Number.POSITIVE_INFINITY],
      ['theirs', 0, 5, 100],
    ])
  })

  it('is by snapshot where both name the same, and else by the model that they are snapshots of', () => {
    const [may, august] = ['gpt-4o-2024-05-13', 'gpt-4o-2024-08-06']
    const same = { [may]: usage(1), [august]: usage(2), 'gpt-4o': usage(3) }
    expect(compared(same, same).map(([model]) => model)).toEqual(['gpt-4o', may, august])
    expect(compared({ 'gpt-4o': usage(3, { outputTokens: 200n }) }, { [may]: usage(1), [august]: usage(2) })).toEqual([
      ['gpt-4o', 3, 3, 0],
    ])
    expect(compared({ 'gpt-4o': usage(2), [may]: usage(1) }, { [may]: usage(3, { outputTokens: 200n }) })).toEqual([
      ['gpt-4o', 3, 3, 0],
    ])
    expect(compared({ 'gpt-4o-mini': usage(1), [may]: usage(2) }, { 'gpt-4o': usage(2), 'gpt-4o-mini': usage(1) })).toEqual([
      ['gpt-4o', 2, 2, 0],
      ['gpt-4o-mini', 1, 1, 0],
    ])
  })

  it('loses nothing, whatever the models are called', () => {
    const names = fc.constantFrom('a', 'a-2024-05-13', 'a-2024-08-06', 'b', 'b-2024-05-13', 'c-0613')
    const side = fc.dictionary(
      names,
      fc.nat(1_000).map((tokens) => usage(tokens)),
    )
    const total = (list: ModelUsage[]) => list.reduce((sum, { inputTokens }) => sum + inputTokens, 0n)
    fc.assert(
      fc.property(side, side, (ours, theirs) => {
        const drifts = compareUsage(new Map(Object.entries(ours)), new Map(Object.entries(theirs)))
        expect(total(drifts.map((drift) => drift.ours))).toBe(total(Object.values(ours)))
        expect(total(drifts.map((drift) => drift.theirs))).toBe(total(Object.values(theirs)))
        expect(new Set(drifts.map(({ model }) => model)).size).toBe(drifts.length)
      }),
    )
  })
})

describe('the sum of all ledgers', () => {
  const range = { from: new Date('2026-03-01T00:00:00Z'), to: new Date('2026-04-01T00:00:00Z') }

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

  /** A model call of ten tokens in, two of them cached, and five out. Answers its id. */
  async function enter({ tenant }: TenantStory, at: string, model = 'gpt-4o'): Promise<string> {
    const id = newId()
    await asAdmin(story.database, (admin) =>
      admin.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
           cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id, created_at)
         select $1, $2, $1, $1, $3, 1, 0, 0, 1, $4, 10, 2, 5, 0, false, 1, 'USD', id, $5 from prices limit 1`,
        [id, tenant.id, tenant.defaultAgentId, model, at],
      ),
    )
    return id
  }

  const sums = async (of = range) => {
    const { tenants, models } = await sumLedgers(story, of)
    const found = [...models].map(([model, each]) => [model, ...Object.values(each).map(Number)])
    return { tenants, models: found.toSorted() }
  }

  const failed = (error: unknown) => {
    throw error
  }

  it('is of every tenant, wherever it is, of those that were erased, and of calls as they were corrected', {
    timeout: 90_000,
  }, async () => {
    const [acme, placed, erased] = [await story.tenant(), await story.tenant(), await story.tenant()]
    for (const at of ['2026-02-28T23:59:59.999Z', '2026-03-01T00:00:00Z', '2026-03-31T23:59:59.999Z', '2026-04-01T00:00:00Z'])
      await enter(acme, at)
    const call = await enter(acme, '2026-03-10T00:00:00Z', 'o3')
    await enter(placed, '2026-03-10T10:10:10Z')
    await enter(erased, '2026-03-10T10:10:10Z', 'gpt-4o-mini')
    await sumAll(story, failed)
    const before = [
      ['gpt-4o', 3, 30, 6, 15],
      ['gpt-4o-mini', 1, 10, 2, 5],
      ['o3', 1, 10, 2, 5],
    ]
    expect(await sums()).toEqual({ tenants: 3, models: before })

    await correctUsage(operator, {
      tenantId: acme.tenant.id,
      usageRecordId: call,
      inputTokens: 8,
      outputTokens: 6,
      reason: 'A test.',
    })
    await eraseTenant(operator, { tenantId: erased.tenant.id, confirmName: erased.tenant.name })
    {
      await using moving = testMover(story.database)
      await moving.mover.place(placed.tenant.name, own.adminUrl)
    }
    await story.catalog.placements.refresh()
    expect(await sums()).toEqual({ tenants: 3, models: [...before.slice(0, 2), ['o3', 1, 8, 2, 6]] })
    // Once, also where the correction itself is in the range; and not where it is and its call is not.
    const [now, hour] = [Date.now(), 3_600_000]
    const since = await sums({ from: range.from, to: new Date(now + hour) })
    expect(since.models).toContainEqual(['o3', 1, 8, 2, 6])
    expect((await sums({ from: new Date(now - hour), to: new Date(now + hour) })).models).toEqual([])
  })

  it('is of all pages of the catalogue', async () => {
    await asAdmin(story.database, (admin) =>
      admin.query(
        "insert into tenants (id, name, plan) select gen_random_uuid(), 'one of many ' || n, 'FREE' from generate_series(1, 400) n",
      ),
    )
    const { tenants } = await sums()
    expect(tenants).toBe(403)
  })
})
