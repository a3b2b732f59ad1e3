import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Principal } from '../../src/domain/authenticate.ts'
import { Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import {
  reportUsage,
  type UsageDimension,
  type UsageQuery,
  type UsageRow,
  usageDimensions,
} from '../../src/domain/usage-report.ts'
import { signInOperator } from '../support/operator.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

const day = 86_400_000
const range = { from: new Date('2026-03-01T00:00:00Z'), to: new Date('2026-04-01T00:00:00Z') }

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

const as = (scope: Scope): Principal => ({ kind: 'tenant', scope, expiresAt: null })

/** A model call as the ledger has it. */
type Call = {
  at: number
  model: string
  conversation: number
  user: string | null
  version: number
  tokens: number
  estimated: boolean
}

const conversations = Array.from({ length: 3 }, newId).toSorted()

async function enter(scope: Scope, calls: readonly Call[]): Promise<void> {
  const { id: tenantId, defaultAgentId: agentId } = scope.tenant
  await asAdmin(story.database, async (admin) => {
    await admin.query('delete from usage_records where tenant_id = $1', [tenantId])
    await admin.query('delete from user_pseudonyms where tenant_id = $1', [tenantId])
    const pseudonyms = new Map([...new Set(calls.flatMap(({ user }) => user ?? []))].map((user) => [user, newId()]))
    for (const [user, id] of pseudonyms)
      await admin.query('insert into user_pseudonyms (id, tenant_id, user_id) values ($1, $2, $3)', [id, tenantId, user])
    for (const { at, model, conversation, user, version, tokens, estimated } of calls) {
      await admin.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, user_pseudonym, agent_id, config_version, turn, call, attempt,
           model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, 0, 0, 1, $8, $9, $10, $11, 1, $12, $13, 'USD', $14)`,
        [
          newId(),
          tenantId,
          conversations[conversation],
          newId(),
          user === null ? null : pseudonyms.get(user),
          agentId,
          version,
          model,
        ]
          .concat([tokens, 2, 3] as never[])
          .concat([estimated, tokens * 1_000, new Date(at)] as never[]),
      )
    }
  })
}

/** What it is told apart by, and how often and for how much. */
const keyed = (rows: readonly UsageRow[]) =>
  rows.map(({ hour, day, model, conversationId, userId, configVersion, calls, inputTokens, costNanos, estimated }) =>
    JSON.stringify([
      hour,
      day,
      model,
      conversationId,
      userId,
      configVersion,
      Number(calls),
      Number(inputTokens),
      Number(costNanos),
      estimated,
    ]),
  )

/** The same, by hand: a month in Lord Howe Island, whose clocks are half an hour beside the others'. */
function byHand(calls: readonly Call[], groupBy: readonly UsageDimension[], zone: string): string[] {
  const by = <T>(dimension: UsageDimension, value: T) => (groupBy.includes(dimension) ? value : null)
  const local = (at: number) => new Date(at).toLocaleString('sv', { timeZone: zone })
  // The hour has begun so many minutes ago there.
  const hourOf = (at: number) => new Date(at - ((at % 60_000) + Number(local(at).slice(14, 16)) * 60_000))
  const groups = Map.groupBy(
    calls.filter(({ at }) => at >= range.from.getTime() && at < range.to.getTime()),
    ({ at, model, conversation, user, version }) =>
      JSON.stringify([
        ...[by('HOUR', hourOf(at)), by('DAY', local(at).slice(0, 10)), by('MODEL', model)],
        ...[by('CONVERSATION', conversations[conversation]), by('USER', user), by('CONFIG_VERSION', version)],
      ]),
  )
  return [...groups].map(([key, of]) => {
    const tokens = of.reduce((sum, call) => sum + call.tokens, 0)
    return JSON.stringify([...JSON.parse(key), of.length, tokens, tokens * 1_000, of.some(({ estimated }) => estimated)])
  })
}

describe('a usage report', () => {
  it('is what the ledger comes to, by whatever it is told apart, and its rows add up to its total', async () => {
    const { admin, member } = await story.tenant()
    const zone = 'Australia/Lord_Howe'
    await updateTenantSettings(admin, { timeZone: zone })
    const call = fc.record<Call>({
      at: fc.integer({ min: range.from.getTime() - day, max: range.to.getTime() + day }),
      model: fc.constantFrom('gpt-4o', 'gpt-4o-mini'),
      conversation: fc.nat(2),
      user: fc.constantFrom(null, 'ann', 'bob'),
      version: fc.integer({ min: 1, max: 3 }),
      tokens: fc.nat(1_000_000),
      estimated: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(call, { maxLength: 25 }), fc.subarray([...usageDimensions]), async (calls, groupBy) => {
        await enter(member, calls)
        const { total, rows } = await reportUsage(as(member), { range, groupBy })
        if (groupBy.length > 0) expect(keyed(rows).toSorted()).toEqual(byHand(calls, groupBy, zone).toSorted())
        const [all] = byHand(calls, [], zone)
        const found = [Number(total.calls), Number(total.inputTokens), Number(total.costNanos), total.estimated]
        expect(found).toEqual(all ? JSON.parse(all).slice(6) : [0, 0, 0, false])
        expect(total.outputTokens).toBe(3n * total.calls)
      }),
      { numRuns: 40 },
    )
  })

  it('is of the own tenant, or for operators of any, but not by what is the tenant’s own business', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const call = { at: range.from.getTime(), model: 'm', conversation: 0, user: 'ann', version: 1, tokens: 7, estimated: false }
    await enter(acme.member, [call])
    const operator: Principal = { kind: 'operator', operator: await signInOperator(story) }
    const calls = async (principal: Principal, query: Partial<UsageQuery> = {}) =>
      (await reportUsage(principal, { range, groupBy: [], ...query })).total.calls
    expect(await calls(as(acme.member))).toBe(1n)
    expect(await calls(as(acme.member), { tenantId: acme.tenant.id })).toBe(1n)
    expect(await calls(as(globex.admin))).toBe(0n)
    expect(await calls(operator, { tenantId: acme.tenant.id, groupBy: ['MODEL', 'DAY'] })).toBe(1n)
    await expect(calls(as(globex.admin), { tenantId: acme.tenant.id })).rejects.toThrow(NotFound)
    await expect(calls(as(acme.endUser))).rejects.toThrow(Forbidden)
    await expect(calls(operator)).rejects.toThrow(ValidationProblem)
    await expect(calls(operator, { tenantId: newId() })).rejects.toThrow(NotFound)
    for (const dimension of ['USER', 'CONVERSATION', 'CONFIG_VERSION'] as const)
      await expect(calls(operator, { tenantId: acme.tenant.id, groupBy: [dimension] })).rejects.toThrow(Forbidden)
  })

  it('is made one after the other for a tenant, and holds up no other', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    let [now, most] = [0, 0]
    const counted = (scope: Scope): Principal => {
      const $queryRaw = async (...statement: Parameters<Scope['db']['$queryRaw']>) => {
        most = Math.max(most, ++now)
        try {
          return await scope.db.$queryRaw(...statement)
        } finally {
          now -= 1
        }
      }
      return as({ ...scope, db: { $queryRaw } as unknown as Scope['db'] })
    }
    const report = (scope: Scope) => reportUsage(counted(scope), { range, groupBy: ['DAY'] })
    await Promise.all(Array.from({ length: 5 }, () => report(acme.member)))
    expect(most).toBe(1)
    await Promise.all([report(acme.member), report(globex.member)])
    expect(most).toBe(2)
    const broken = as({ ...acme.member, db: { $queryRaw: () => Promise.reject(new Error('Broken.')) } as unknown as Scope['db'] })
    const [failed, next] = await Promise.allSettled([reportUsage(broken, { range, groupBy: [] }), report(acme.member)])
    expect([failed.status, next.status]).toEqual(['rejected', 'fulfilled'])
  })

  it.each([
    ['backwards', { from: range.to, to: range.from }],
    ['empty', { from: range.from, to: range.from }],
    ['of ten years', { from: new Date('2016-01-01'), to: new Date('2026-01-01') }],
  ])('is refused for a range that is %s', async (_what, wrong) => {
    const { member } = await story.tenant()
    await expect(reportUsage(as(member), { range: wrong, groupBy: [] })).rejects.toThrow(ValidationProblem)
  })

  it('is refused when it would be endless', async () => {
    const { member } = await story.tenant()
    await asAdmin(story.database, (admin) =>
      admin.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model,
           input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
         select gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), $2, 1, 0, 0, 1, 'm', 1, 0, 1, 0, false, 1, 'USD', $3
         from generate_series(1, 10001)`,
        [member.tenant.id, member.tenant.defaultAgentId, range.from],
      ),
    )
    await expect(reportUsage(as(member), { range, groupBy: ['CONVERSATION'] })).rejects.toThrow('more than 10,000 rows')
    expect((await reportUsage(as(member), { range, groupBy: ['DAY'] })).rows).toHaveLength(1)
  })
})
