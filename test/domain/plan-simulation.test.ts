import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QuotaLimit } from '../../src/data/generated/enums.ts'
import type { Limits } from '../../src/domain/admission.ts'
import { NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { reserveOf } from '../../src/domain/message-admission.ts'
import { type PastMessage, replay, simulatePlan } from '../../src/domain/plan-simulation.ts'
import { dayIn, monthIn } from '../../src/domain/time-zone.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { signInOperator } from '../support/operator.ts'
import { ask, follow, startWorker } from '../support/run-story.ts'
import { says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

const zone = 'America/New_York'
const start = Date.UTC(2026, 2, 31, 3)

const limitsOf = fc.record({
  MESSAGES_PER_MINUTE: fc.integer({ min: 1, max: 6 }),
  MESSAGES_PER_DAY: fc.integer({ min: 1, max: 30 }),
  TOKENS_PER_MESSAGE: fc.integer({ min: 1, max: 100 }),
  CONCURRENT_SESSIONS: fc.integer({ min: 1, max: 4 }),
  MONTHLY_TOKENS: fc.integer({ min: 600, max: 20_000 }),
}) satisfies fc.Arbitrary<Limits>

/** Messages over two days, and two months, some of them close together. */
const messages = fc
  .array(
    fc.record({
      after: fc.oneof(fc.nat(20_000), fc.nat(3_600_000 * 3)),
      takes: fc.nat(60_000),
      contentTokens: fc.nat(110),
      tokens: fc.nat(1_000),
      costNanos: fc.bigInt(0n, 10n ** 9n),
    }),
    { maxLength: 60 },
  )
  .map((list) => {
    let at = start
    return list.map(({ after, takes, ...message }): PastMessage => {
      at += after
      return { ...message, at, endedAt: at + takes }
    })
  })

/** What the counters themselves make of it, when an answer's tokens are spent at once. */
async function byCounters(past: readonly PastMessage[], limits: Limits) {
  let now = 0
  const admission = new MemoryAdmission({ onError: () => undefined, now: () => now })
  const tenantId = tenantIdOf(newId())
  const refused: Partial<Record<QuotaLimit, number>> = {}
  const open: { runId: string; endedAt: number }[] = []
  let [spent, version] = [0, 0]
  for (const { at, endedAt, contentTokens, tokens } of past) {
    for (const { runId, endedAt: end } of open.filter((run) => run.endedAt <= at)) {
      await admission.settle(tenantId, { runId, calls: [], leave: 1 })
      open.splice(
        open.findIndex((run) => run.runId === runId && run.endedAt === end),
        1,
      )
    }
    now = at
    const terms = { version: 0, limits, validUntil: null, day: dayIn(zone, at), month: monthIn(zone, at) }
    const runId = newId()
    for (;;) {
      const request = { version, runId, key: null, contentTokens, reserve: reserveOf(contentTokens) }
      const decision = await admission.admit(tenantId, request)
      if (decision.outcome === 'unseeded') {
        const counts = { recent: [], today: 0, spent: 0, calls: [], sessions: [] }
        await admission.seed(tenantId, decision.mark, terms, decision.need === 'counts' ? counts : null)
        continue
      }
      if (decision.outcome === 'refused') refused[decision.refusal.limit] = (refused[decision.refusal.limit] ?? 0) + 1
      else {
        const answered = Math.min(tokens, limits.MONTHLY_TOKENS - decision.quota.spent)
        spent += answered
        await admission.hold(tenantId, { version, runId, call: `${runId}/0/1`, tokens: 1, least: 1 })
        await admission.settle(tenantId, {
          runId,
          calls: [{ id: `${runId}/0/1`, tokens: answered, at, isOurs: true }],
          leave: null,
        })
        if ((endedAt ?? at) > at) open.push({ runId, endedAt: endedAt ?? at })
        else await admission.settle(tenantId, { runId, calls: [], leave: 1 })
      }
      break
    }
  }
  version = 0
  await admission.erase(tenantId)
  return { refused, spent }
}

describe('a simulated plan', () => {
  it('refuses what the counters themselves would refuse', async () => {
    await fc.assert(
      fc.asyncProperty(messages, limitsOf, async (past, limits) => {
        const { refused, tokens } = replay(past, limits, zone)
        const expected = await byCounters(past, limits)
        expect(Object.fromEntries(refused.map(({ limit, messages }) => [limit, messages]))).toEqual(expected.refused)
        expect(Number(tokens)).toBe(expected.spent)
      }),
    )
  })

  it('costs no more than it did, and what it did when nothing is refused', () => {
    const most = 10 ** 9
    const generous = {
      ...{ MESSAGES_PER_MINUTE: most, MESSAGES_PER_DAY: most, TOKENS_PER_MESSAGE: most },
      ...{ CONCURRENT_SESSIONS: most, MONTHLY_TOKENS: most },
    }
    fc.assert(
      fc.property(messages, limitsOf, (past, limits) => {
        const tight = replay(past, limits, zone)
        expect(tight.costNanos).toBeLessThanOrEqual(tight.actualCostNanos)
        expect(tight.actualCostNanos).toBe(past.reduce((sum, { costNanos }) => sum + costNanos, 0n))
        const loose = replay(past, generous, zone)
        expect(loose).toMatchObject({ refused: [], cutShort: 0, costNanos: loose.actualCostNanos, tokens: loose.actualTokens })
      }),
    )
  })

  it('replays what was sent, for operators', async () => {
    const { member, tenant } = await story.tenant({ plan: 'PRO' })
    const operator = await signInOperator(story)
    await using _ = await startWorker(story, {
      model: scriptedModel(Array.from({ length: 12 }, () => says('Hi.', usage(100, 10)))),
    })
    for (let index = 0; index < 12; index++) await follow(member, (await ask(member, 'Hello?')).run.id)
    const range = { from: new Date(Date.now() - 3_600_000), to: new Date(Date.now() + 1_000) }
    const query = { tenantId: tenant.id, plan: 'FREE', range } as const
    // The free plan has ten messages a minute.
    expect(await simulatePlan(operator, query)).toMatchObject({
      ...{ plan: 'FREE', messages: 12, refused: [{ limit: 'MESSAGES_PER_MINUTE', messages: 2 }], cutShort: 0 },
      ...{ tokens: 1_100n, costNanos: 10n * 21_000n, actualTokens: 1_320n, actualCostNanos: 12n * 21_000n },
    })
    await expect(simulatePlan(operator, { ...query, tenantId: newId() })).rejects.toThrow(NotFound)
    const backwards = { from: range.to, to: range.from }
    await expect(simulatePlan(operator, { ...query, range: backwards })).rejects.toThrow(ValidationProblem)
  })
})
