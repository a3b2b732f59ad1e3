import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ModelTenant } from './admission-model.ts'
import { describeAdmission, minute, noon, type OpenAdmission, roomy, second, Tenant, termsAt } from './admission-world.ts'

const bursts = fc.record({
  limit: fc.integer({ min: 1, max: 8 }),
  bursts: fc.array(
    fc.record({
      pause: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 6_000 }), fc.integer({ min: 1, max: 70_000 })),
      messages: fc.integer({ min: 1, max: 10 }),
    }),
    { minLength: 1, maxLength: 12 },
  ),
})

const tokens = fc.integer({ min: 1, max: 400 })
const which = fc.nat({ max: 7 })
const step = fc.record({
  tenant: fc.nat({ max: 2 }),
  act: fc.oneof(
    { weight: 4, arbitrary: fc.record({ send: tokens, isStored: fc.boolean() }) },
    { weight: 5, arbitrary: fc.record({ hold: which, tokens, least: fc.integer({ min: 1, max: 100 }) }) },
    { weight: 3, arbitrary: fc.record({ use: which, part: fc.double({ min: 0, max: 1, noNaN: true }) }) },
    { weight: 3, arbitrary: fc.record({ settle: which, times: fc.nat({ max: 2 }), isOurs: fc.boolean() }) },
    { weight: 2, arbitrary: fc.record({ leave: which, isOver: fc.boolean(), claim: fc.integer({ min: 1, max: 9 }) }) },
    { weight: 2, arbitrary: fc.record({ renew: fc.constant(true) }) },
    { weight: 1, arbitrary: fc.record({ lose: fc.constant(true) }) },
    { weight: 1, arbitrary: fc.record({ correct: tokens }) },
    { weight: 1, arbitrary: fc.record({ readForLater: fc.constant(true) }) },
    { weight: 1, arbitrary: fc.record({ seedLate: fc.constant(true) }) },
    { weight: 4, arbitrary: fc.record({ pass: fc.constantFrom(1, second, 20 * second, 61 * second, 9 * 60 * minute) }) },
  ),
  isChecked: fc.boolean(),
})
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

describeAdmission('any history of admissions', (open) => {
  test('has no minute with more messages than the limit, and each refusal tells the very millisecond', async () => {
    const opened = await open()
    await fc.assert(
      fc.asyncProperty(bursts, async ({ limit, bursts }) => {
        opened.clock.now += 10 * minute
        const tenant = await Tenant.seeded(opened, { MESSAGES_PER_MINUTE: limit, MESSAGES_PER_DAY: 1_000_000 })
        const admitted: number[] = []
        for (const { pause, messages } of bursts) {
          opened.clock.now += pause
          for (let message = 0; message < messages; message++) {
            const { now } = opened.clock
            const bucketsBack = (time: number) => Math.floor(now / 5_000) - Math.floor(time / 5_000)
            const counted = admitted.filter((time) => bucketsBack(time) < 13)
            const decision = await tenant.admit()
            expect(decision.outcome).toBe(counted.length < limit ? 'admitted' : 'refused')
            if (decision.outcome !== 'refused') {
              admitted.push(now)
              continue
            }
            const leaving = counted[counted.length - limit] ?? 0
            expect(decision.refusal.retryAt).toBe((Math.floor(leaving / 5_000) + 13) * 5_000)
            break
          }
        }
        const last = await tenant.admit()
        if (last.outcome === 'refused') {
          opened.clock.now = (last.refusal.retryAt ?? 0) - 1
          expect((await tenant.admit()).outcome).toBe('refused')
          opened.clock.now += 1
          await tenant.admitted()
        }
        for (const [index, time] of admitted.entries()) {
          const next = admitted[index + limit]
          if (next !== undefined) expect(next - time).toBeGreaterThan(60_000)
        }
      }),
      { numRuns: 40 },
    )
  })

  test('and of holds, settlements, losses and late seeds leaves what the model says, and never spends more than the budget', async () => {
    const opened = await open()
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        opened.clock.now = termsAt(noon).month.end - 11 * 60 * minute
        const limits = { ...roomy, MESSAGES_PER_MINUTE: 6, MESSAGES_PER_DAY: 12, CONCURRENT_SESSIONS: 4, MONTHLY_TOKENS: 1_000 }
        const tenants = [0, 1, 2].map(() => new ModelTenant(opened, limits))
        for (const step of steps) await take(opened, tenants, step)
        for (const tenant of tenants) await tenant.check()
      }),
      { numRuns: 60 },
    )
  }, 120_000)
})

async function take({ clock }: OpenAdmission, tenants: ModelTenant[], { tenant: index, act, isChecked }: Step): Promise<void> {
  const tenant = tenants[index]
  if (!tenant) return
  if ('send' in act) await tenant.send(act.send, act.isStored)
  else if ('hold' in act) await tenant.hold(act.hold, act.tokens, act.least)
  else if ('use' in act) tenant.use(act.use, act.part)
  else if ('settle' in act) await tenant.settle(act.settle, act.times, act.isOurs)
  else if ('leave' in act) await tenant.leave(act.leave, act.isOver, act.claim)
  else if ('renew' in act) await tenant.renew()
  else if ('correct' in act) await tenant.correct(act.correct)
  else if ('lose' in act) await tenant.lose()
  else if ('readForLater' in act) await tenant.readForLater()
  else if ('seedLate' in act) await tenant.seedLate()
  else {
    clock.now += act.pass
    for (const each of tenants) each.pass()
  }
  if (isChecked) await tenant.check()
}
