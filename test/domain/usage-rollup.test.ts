import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readDrift } from '../../src/domain/conservation.ts'
import { composeInvoice } from '../../src/domain/invoice.ts'
import { quarter } from '../../src/domain/ledger-sums.ts'
import { readQuota } from '../../src/domain/quota.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { monthIn } from '../../src/domain/time-zone.ts'
import { reportUsage } from '../../src/domain/usage-report.ts'
import { rebuildRollups, sumAll, sumQuarter } from '../../src/domain/usage-rollup.ts'
import { enterCalls, ledgerCalls } from '../support/ledger.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

const { start, end } = monthIn('UTC', Date.now())
/** The month under way, which is the one that counters count. */
const month = { from: new Date(start), to: new Date(end) }
const monthName = month.from.toISOString().slice(0, 7)

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

/** The quarters that have to be summed, as the tenant's rows say. */
const marked = async ({ tenant }: Scope) =>
  (
    await selectRows(
      story.database,
      `select bucket from usage_rollups where part = 0 and tenant_id = '${tenant.id}' order by bucket`,
    )
  ).map(({ bucket }) => (bucket as Date).getTime())

const total = async (scope: Scope) =>
  (await reportUsage({ kind: 'tenant', scope, expiresAt: null }, { range: month, groupBy: [] })).total

const drift = ({ db, tenant }: Scope) => readDrift({ db, tenantId: tenant.id, now: end }, monthName)

const call = {
  ...{ at: month.from.getTime() + 60_000, model: 'gpt-4o', inputTokens: 100, cachedInputTokens: 10, outputTokens: 5 },
  ...{ costNanos: 1_000, estimated: false },
}

describe('the sums of a ledger', () => {
  it('are the ledger, be none, some or all of it summed: in reports, in invoices, and by the counters of the budget', async () => {
    await fc.assert(
      fc.asyncProperty(ledgerCalls(start, end, 30), fc.nat(), async (calls, chosen) => {
        const { admin } = await story.tenant()
        await enterCalls(story.database, admin, calls)
        const expected = {
          calls: BigInt(calls.length),
          costNanos: BigInt(calls.reduce((sum, { costNanos }) => sum + costNanos, 0)),
          outputTokens: BigInt(calls.reduce((sum, { outputTokens }) => sum + outputTokens, 0)),
        }
        const buckets = await marked(admin)
        expect(buckets).toEqual([...new Set(calls.map(({ at }) => at - (at % quarter)))].toSorted((one, other) => one - other))
        for (const some of [[], buckets.filter((_, index) => (chosen >> (index % 30)) & 1), buckets]) {
          for (const bucket of some) await sumQuarter(admin.db, admin.tenant.id, new Date(bucket))
          expect(await total(admin)).toMatchObject(expected)
          const invoice = await composeInvoice({ db: admin.db, tenantId: admin.tenant.id, now: end }, monthName)
          expect(invoice.costNanos).toBe(expected.costNanos)
          expect(await drift(admin)).toEqual({ sums: 0n, invoice: 0n })
        }
        expect(await marked(admin)).toEqual([])
        const tokens = calls.reduce((sum, { inputTokens, outputTokens }) => sum + inputTokens + outputTokens, 0)
        expect((await readQuota(admin)).spent).toBe(tokens)
      }),
      { numRuns: 15 },
    )
  })

  it('are the ledger of any range, also within a quarter', async () => {
    const minute = 60_000
    await fc.assert(
      fc.asyncProperty(
        ledgerCalls(start, start + 4 * quarter, 20),
        fc.nat(60).map((minutes) => start + minutes * minute),
        fc.integer({ min: 1, max: 60 }),
        async (calls, from, minutes) => {
          const { admin } = await story.tenant()
          await enterCalls(story.database, admin, calls)
          for (const bucket of await marked(admin)) await sumQuarter(admin.db, admin.tenant.id, new Date(bucket))
          const to = from + minutes * minute
          const range = { from: new Date(from), to: new Date(to) }
          const report = await reportUsage({ kind: 'tenant', scope: admin, expiresAt: null }, { range, groupBy: [] })
          expect(Number(report.total.calls)).toBe(calls.filter(({ at }) => at >= from && at < to).length)
        },
      ),
      { numRuns: 15, examples: [[[{ ...call, at: start + minute }], start, 7]] },
    )
  })

  it('are made of other quarters where one cannot be summed', async () => {
    const { admin } = await story.tenant()
    const yesterday = Date.now() - 86_400_000
    await enterCalls(
      story.database,
      admin,
      [0, 1, 2].map((quarters) => ({ ...call, at: yesterday - quarters * quarter })),
    )
    const [, poisoned] = await marked(admin)
    const spoil = `update usage_records set cost_nanos = 9e18 where tenant_id = $1 and created_at >= $2 and created_at < $3`
    await asAdmin(story.database, async (client) => {
      await client.query(spoil, [admin.tenant.id, new Date(poisoned ?? 0), new Date((poisoned ?? 0) + quarter)])
    })
    await enterCalls(story.database, admin, [{ ...call, at: (poisoned ?? 0) + 1, costNanos: 9e18 }])
    const errors: unknown[] = []
    await sumAll(story, (error) => void errors.push(error))
    expect(errors).toHaveLength(1)
    expect(await marked(admin)).toEqual([poisoned])
    await asAdmin(story.database, (client) => client.query('delete from usage_records where tenant_id = $1', [admin.tenant.id]))
    await sumAll(story, (error) => void errors.push(error))
  })

  it('are made again when something is entered later, and when they are rebuilt', async () => {
    const { admin } = await story.tenant()
    const { tenant, db } = admin
    const bucket = new Date(month.from)
    await enterCalls(story.database, admin, [call])
    expect(await sumQuarter(db, tenant.id, bucket)).toBe(true)
    expect(await sumQuarter(db, tenant.id, bucket)).toBe(false)
    await enterCalls(story.database, admin, [call])
    expect(await total(admin)).toMatchObject({ calls: 2n })
    expect(await sumQuarter(db, tenant.id, bucket)).toBe(true)
    expect(await total(admin)).toMatchObject({ calls: 2n })

    // Somebody spoils them.
    const spoil = `update usage_rollups set calls = 7, cost_nanos = 7 where part > 0 and tenant_id = '${tenant.id}'`
    await asAdmin(story.database, (client) => client.query(spoil))
    expect(await total(admin)).toMatchObject({ calls: 7n })
    expect(await drift(admin)).toEqual({ sums: -1_993n, invoice: -1_993n })
    expect(await rebuildRollups(db, tenant.id)).toBe(1)
    expect(await total(admin)).toMatchObject({ calls: 2n })
    expect(await sumQuarter(db, tenant.id, bucket)).toBe(true)
    expect(await drift(admin)).toEqual({ sums: 0n, invoice: 0n })
  })

  it('miss nothing that is entered late while others sum, however many do', async () => {
    const { admin } = await story.tenant()
    const bucket = new Date(month.from)
    let [entering, entered] = [true, 0]
    const enter = async () => {
      for (; entered < 60; entered++) await enterCalls(story.database, admin, [call])
      entering = false
    }
    const sum = async () => {
      while (entering) await sumQuarter(admin.db, admin.tenant.id, bucket)
    }
    await Promise.all([enter(), sum(), sum(), sum()])
    await sumQuarter(admin.db, admin.tenant.id, bucket)
    expect(await marked(admin)).toEqual([])
    expect(await total(admin)).toMatchObject({ calls: 60n })
    expect(await drift(admin)).toEqual({ sums: 0n, invoice: 0n })
  })

  it('are made of all tenants, once a quarter is over, and one that fails keeps no other from it', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const yesterday = Date.now() - 86_400_000
    for (const { admin } of [acme, globex])
      await enterCalls(story.database, admin, [
        { ...call, at: yesterday },
        { ...call, at: Date.now() },
      ])
    const broken = Object.assign(Object.create(story.data), {
      of: (wall: Parameters<typeof story.data.of>[0]) => {
        if (wall.tenantId === acme.tenant.id) throw new Error('Broken.')
        return story.data.of(wall)
      },
    })
    const errors: unknown[] = []
    await sumAll({ catalog: story.catalog, data: broken }, (error) => void errors.push(error))
    expect(errors).toEqual([new Error('Broken.')])
    expect(await marked(acme.admin)).toHaveLength(2)
    // The one that is not over.
    expect(await marked(globex.admin)).toHaveLength(1)
    await sumAll(story, (error) => void errors.push(error))
    expect(errors).toHaveLength(1)
    expect(await marked(acme.admin)).toHaveLength(1)
  })
})
