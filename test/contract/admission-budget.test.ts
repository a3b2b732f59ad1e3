import { describe, expect, test } from 'vitest'
import { type CallId, leaseTtl, type QuotaCounts } from '../../src/domain/admission.ts'
import { newId } from '../../src/domain/ids.ts'
import { describeAdmission, noon, nothing, second, Tenant, termsAt } from './admission-world.ts'

const callOf = (run: string, attempt: number): CallId => `${run}/1/${attempt}`

describeAdmission('sessions and budget', (open) => {
  describe('hold', () => {
    test('takes the place of what was set aside for the run, and grows and shrinks to what is asked for, never below what it had', async () => {
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: 1_000 })
      const run = await tenant.admitted({ reserve: 300 })
      expect(await tenant.hold(run, 100)).toMatchObject({ outcome: 'held', tokens: 100, quota: { reserved: 100, sessions: 1 } })
      expect(await tenant.hold(run, 100)).toMatchObject({ outcome: 'held', tokens: 100, quota: { reserved: 100 } })
      expect(await tenant.hold(run, 250)).toMatchObject({ outcome: 'held', tokens: 250, quota: { reserved: 250 } })
      expect(await tenant.hold(run, 200)).toMatchObject({ outcome: 'held', tokens: 250, quota: { reserved: 250 } })
      const another = await tenant.hold(run, 70, { call: callOf(run, 2) })
      expect(another).toMatchObject({ outcome: 'held', tokens: 70, quota: { reserved: 320 } })
    })

    test('gives what the budget has, down to the least that is of use, and else leaves all as it was', async () => {
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: 1_000 }, { spent: 600 })
      const [one, two] = [await tenant.admitted({ reserve: 50 }), await tenant.admitted({ reserve: 100 })]
      expect(await tenant.hold(one, 900, { least: 301 })).toMatchObject({ outcome: 'exhausted', quota: { reserved: 150 } })
      expect(await tenant.hold(one, 900, { least: 300 })).toMatchObject({
        outcome: 'held',
        tokens: 300,
        quota: { reserved: 400 },
      })
      const before = await tenant.read()
      expect(await tenant.hold(one, 900, { least: 301 })).toEqual({ outcome: 'exhausted', quota: before })
      expect(await tenant.hold(two, 900, { least: 101 })).toEqual({ outcome: 'exhausted', quota: before })
      expect(await tenant.read()).toEqual(before)
      expect(await tenant.hold(two, 900, { least: 100 })).toMatchObject({ outcome: 'held', tokens: 100 })
    })

    test('keeps what is held when the budget is cut below it', async () => {
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: 1_000 })
      const run = await tenant.admitted()
      await tenant.hold(run, 400)
      await tenant.seed(termsAt(noon, { MONTHLY_TOKENS: 100 }, { version: 2 }), null)
      expect(await tenant.hold(run, 600)).toMatchObject({ outcome: 'held', tokens: 400 })
      expect(await tenant.hold(run, 600, { least: 401 })).toMatchObject({ outcome: 'exhausted', quota: { reserved: 400 } })
    })

    test('gives a run without a session one, unless all are taken', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, { CONCURRENT_SESSIONS: 2 })
      const waited = await tenant.admitted()
      await tenant.leave(waited)
      const [one] = [await tenant.admitted(), await tenant.admitted()]
      const before = await tenant.read()
      expect(await tenant.hold(waited, 10)).toEqual({ outcome: 'full', quota: before })
      expect(await tenant.read()).toEqual(before)
      expect(await tenant.hold(one, 10)).toMatchObject({ outcome: 'held', quota: { sessions: 2 } })
      await tenant.settle(callOf(one, 1), 0, { leave: 1 })
      expect(await tenant.hold(waited, 10)).toMatchObject({ outcome: 'held', quota: { sessions: 2, reserved: 10 } })
    })

    test('shares the budget exactly among those who hold at once', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, { MONTHLY_TOKENS: 1_000 }, { spent: 3 })
      const outcomes = await Promise.all(Array.from({ length: 40 }, () => tenant.hold(newId(), 70, { least: 10 })))
      const granted = outcomes.map((outcome) => (outcome.outcome === 'held' ? outcome.tokens : 0))
      expect(granted.toSorted((a, b) => b - a)).toEqual([...Array(14).fill(70), 17, ...Array(25).fill(0)])
      expect(await tenant.read()).toMatchObject({ reserved: 997, sessions: 15 })
    })
  })

  describe('settle', () => {
    test('counts a call once, and frees what it held', async () => {
      const tenant = await Tenant.seeded(await open(), {}, { spent: 5 })
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      await tenant.hold(run, 50, { call: callOf(run, 2) })
      const settled = await tenant.settle(callOf(run, 1), 60)
      expect(settled).toMatchObject({ spent: 65, reserved: 50, sessions: 1 })
      expect(await tenant.settle(callOf(run, 7), 0)).toEqual(settled)
      expect(await tenant.settle(callOf(newId(), 1), 0)).toEqual(settled)
      expect(await tenant.settle(callOf(newId(), 1), 60, { at: termsAt(noon).month.start - 1 })).toEqual(settled)
      expect(await tenant.read()).toEqual(settled)
    })

    test.each([
      { title: 'for which nothing was held', run: newId(), calls: 1, isOurs: true },
      { title: 'that was settled before', run: 'held', calls: 2, isOurs: true },
      { title: 'that somebody else entered', run: 'held', calls: 1, isOurs: false },
    ])('has a call counted in Postgres $title', async ({ run, calls, isOurs }) => {
      const tenant = await Tenant.seeded(await open(), {}, { spent: 5 })
      const held = await tenant.admitted()
      await tenant.hold(held, 100)
      const call = callOf(run === 'held' ? held : run, 1)
      for (let again = 1; again < calls; again++) await tenant.settle(call, 60, { isOurs })
      expect(await tenant.settle(call, 60, { isOurs })).toBeNull()
      expect(await tenant.admit()).toMatchObject({ outcome: 'unseeded', need: 'counts' })
      const unfinished = run === 'held' ? nothing : { ...nothing, calls: [{ id: callOf(held, 1), tokens: 100 }] }
      await tenant.seed(termsAt(noon), { ...unfinished, spent: 65 })
      expect(await tenant.read()).toMatchObject({ spent: 65, reserved: run === 'held' ? 0 : 100 })
    })

    test('with leave lets a later claim keep its session and what it holds', async () => {
      const tenant = await Tenant.seeded(await open(), { CONCURRENT_SESSIONS: 1 })
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      await tenant.settle(callOf(run, 1), 10)
      await tenant.hold(run, 50, { call: callOf(run, 2) })
      expect(await tenant.leave(run, 1)).toMatchObject({ spent: 10, reserved: 50, sessions: 1 })
      expect(await tenant.leave(run, 2)).toBeNull()
      await tenant.seed(termsAt(noon), { ...nothing, spent: 60 })
      expect(await tenant.read()).toMatchObject({ reserved: 0, sessions: 0 })
    })

    test('counts no call that was in the ledger when the counters were counted anew, however late it comes', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const [late, never] = [await tenant.admitted(), await tenant.admitted()]
      await tenant.hold(late, 100)
      await tenant.hold(never, 100)
      await tenant.doubt()
      await tenant.seed(termsAt(noon), { ...nothing, spent: 130, sessions: [late, never] })
      expect(await tenant.read()).toMatchObject({ spent: 130, reserved: 0 })
      expect(await tenant.settle(callOf(late, 1), 60)).toMatchObject({ spent: 130, reserved: 0 })
      opened.clock.now += leaseTtl
      expect(await tenant.read()).toMatchObject({ spent: 130, reserved: 0, sessions: 0 })
    })

    test('settles several calls, and with leave frees the session and what was set aside', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const run = await tenant.admitted()
      const calls = [1, 2].map((attempt) => callOf(run, attempt))
      for (const call of calls) await tenant.hold(run, 100, { call })
      const settled = calls.map((id) => ({ id, tokens: 10, at: noon, isOurs: true }))
      const quota = await opened.admission.settle(tenant.id, { runId: run, calls: settled, leave: 2 })
      expect(quota).toMatchObject({ spent: 20, reserved: 0, sessions: 0 })
      const never = await tenant.admitted({ reserve: 40 })
      expect(await tenant.leave(never)).toMatchObject({ spent: 20, reserved: 0, sessions: 0, minute: 2 })
    })

    test('with leave has a call counted in Postgres that nobody settled', async () => {
      const tenant = await Tenant.seeded(await open())
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      await tenant.hold(run, 50, { call: callOf(run, 2) })
      expect(await tenant.settle(callOf(run, 2), 40, { leave: 2 })).toBeNull()
      await tenant.seed(termsAt(noon), { ...nothing, spent: 130 })
      expect(await tenant.read()).toMatchObject({ spent: 130, reserved: 0, sessions: 0 })
    })

    test('counts calls of the month under way alone; those of the next make it be counted when it begins', async () => {
      const opened = await open()
      const { month } = termsAt(noon)
      opened.clock.now = month.end - second
      const tenant = await Tenant.seeded(opened, {}, { spent: 7 })
      const run = await tenant.admitted()
      const calls = [1, 2, 3].map((attempt) => callOf(run, attempt))
      for (const call of calls) await tenant.hold(run, 100, { call })
      const at = [month.start - 1, month.start, month.end]
      for (const [index, call] of calls.entries()) await tenant.settle(call, 10 ** index, { at: at[index] })
      expect(await tenant.read()).toMatchObject({ spent: 17, reserved: 0 })
      opened.clock.now += second
      await tenant.seed(termsAt(opened.clock.now), null)
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
      await tenant.seed(termsAt(opened.clock.now), { ...nothing, spent: 100 })
      expect(await tenant.read()).toMatchObject({ spent: 100, today: 0 })
      opened.clock.now = termsAt(opened.clock.now).month.end
      await tenant.seed(termsAt(opened.clock.now), null)
      expect(await tenant.read()).toMatchObject({ spent: 0 })
    })

    test('counts to the last token in large numbers', async () => {
      const budget = Number.MAX_SAFE_INTEGER
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: budget }, { spent: budget - 10 })
      const run = newId()
      expect(await tenant.hold(run, budget)).toMatchObject({ tokens: 10 })
      expect(await tenant.settle(callOf(run, 1), 9)).toMatchObject({ spent: budget - 1, reserved: 0 })
      expect(await tenant.hold(run, budget, { call: callOf(run, 2) })).toMatchObject({ tokens: 1, quota: { spent: budget - 1 } })
      expect(await tenant.hold(run, budget, { call: callOf(run, 3) })).toMatchObject({ outcome: 'exhausted' })
    })
  })

  describe('doubt', () => {
    test('has everything counted anew, also below zero, and keeps what is held', async () => {
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: 1_000 }, { spent: 100 })
      const run = await tenant.admitted()
      await tenant.hold(run, 40)
      await tenant.doubt()
      expect(await tenant.admit()).toMatchObject({ outcome: 'unseeded', need: 'counts' })
      expect(await tenant.hold(run, 50)).toMatchObject({ outcome: 'unseeded', need: 'counts' })
      const unfinished = { calls: [{ id: callOf(run, 1), tokens: 40 }], sessions: [run] }
      await tenant.seed(termsAt(noon), { ...nothing, ...unfinished, spent: -200 })
      expect(await tenant.read()).toMatchObject({ spent: -200, reserved: 40, sessions: 1, minute: 1 })
      expect(await tenant.settle(callOf(run, 1), 30)).toMatchObject({ spent: -170, reserved: 0 })
    })

    test('does not let counts in that were read before it', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      const { mark = 0 } = await tenant.lacks()
      await tenant.doubt()
      await opened.other.seed(tenant.id, mark, termsAt(noon), { ...nothing, spent: 100 })
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
      await tenant.seed(termsAt(noon), { ...nothing, spent: 60 })
      expect(await tenant.read()).toMatchObject({ spent: 60 })
    })

    test('of counters that are not there leaves none', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      await tenant.doubt()
      expect(await opened.admission.count(tenant.id)).toBe(0)
    })
  })

  describe('a session', () => {
    test('ends when nobody renews it, with what was set aside for it', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, { CONCURRENT_SESSIONS: 1 }, { spent: 5 })
      await tenant.admitted({ reserve: 50 })
      opened.clock.now += leaseTtl - 1
      expect(await tenant.admit()).toMatchObject({ refusal: { limit: 'CONCURRENT_SESSIONS' } })
      opened.clock.now += 1
      expect(await tenant.read()).toMatchObject({ sessions: 0, spent: 5, reserved: 0, today: 1 })
      expect(await tenant.admit()).toMatchObject({ outcome: 'admitted', quota: { sessions: 1 } })
    })

    test('lives as long as it is renewed, and what it holds with it', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const [waiting, calling, gone] = [await tenant.admitted({ reserve: 20 }), await tenant.admitted(), newId()]
      await tenant.hold(calling, 100)
      const renewed = [
        { runId: waiting, call: null },
        { runId: calling, call: callOf(calling, 1) },
        { runId: gone, call: callOf(gone, 1) },
      ]
      for (let times = 0; times < 5; times++) {
        opened.clock.now += leaseTtl - 1
        await tenant.renew(...renewed)
        expect(await tenant.read()).toMatchObject({ sessions: 2, reserved: 120 })
      }
      await tenant.renew()
      opened.clock.now += leaseTtl - 1
      await tenant.renew({ runId: calling, call: callOf(calling, 1) })
      opened.clock.now += 1
      expect(await tenant.read()).toMatchObject({ sessions: 1, reserved: 100 })
      opened.clock.now += leaseTtl
      await tenant.renew(...renewed)
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
    })

    test('that ended is not renewed, and its call lives on by itself', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      opened.clock.now += leaseTtl / 2
      await tenant.hold(run, 60, { call: callOf(run, 2) })
      opened.clock.now += leaseTtl / 2 - 1
      await tenant.renew({ runId: run, call: callOf(run, 1) })
      opened.clock.now += leaseTtl / 2
      expect(await tenant.read()).toMatchObject({ sessions: 1, reserved: 160 })
    })
  })

  describe('a held call that nobody settles nor renews', () => {
    test('puts the counters in doubt, and settling it then changes nothing', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, {}, { spent: 5 })
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      opened.clock.now += leaseTtl
      expect(await tenant.settle(callOf(run, 1), 60)).toBeNull()
      for (const asked of [await tenant.admit(), await tenant.hold(run, 1)])
        expect(asked).toMatchObject({ outcome: 'unseeded', need: 'counts', now: opened.clock.now })
      await tenant.seed(termsAt(noon), { ...nothing, spent: 65 })
      expect(await tenant.read()).toMatchObject({ spent: 65, reserved: 0, sessions: 0, today: 1 })
    })

    test('is held again, up to its bound, when Postgres does not know what became of it', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, { MONTHLY_TOKENS: 1_000 })
      const run = await tenant.admitted()
      await tenant.hold(run, 100)
      opened.clock.now += leaseTtl
      const calls = [{ id: callOf(run, 1), tokens: 700 }]
      await tenant.seed(termsAt(noon, { MONTHLY_TOKENS: 1_000 }), { ...nothing, calls, sessions: [run] })
      expect(await tenant.read()).toMatchObject({ reserved: 700, sessions: 1 })
      expect(await tenant.hold(newId(), 900, { least: 301 })).toMatchObject({ outcome: 'exhausted' })
      expect(await tenant.hold(run, 100)).toMatchObject({ outcome: 'held', tokens: 700 })
      expect(await tenant.settle(callOf(run, 1), 80)).toMatchObject({ spent: 80, reserved: 0 })
    })
  })

  describe('seed', () => {
    /** A tenant in doubt, with what it holds: `kept` for 30 seconds more, and an admission of 20 tokens. */
    async function doubtful() {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, {}, { today: 2 })
      const lost = newId()
      await tenant.hold(lost, 40)
      opened.clock.now += leaseTtl - 30 * second
      const [kept, admitted] = [await tenant.admitted(), await tenant.admitted({ key: 'key', reserve: 20 })]
      await tenant.hold(kept, 100)
      await tenant.hold(kept, 200, { call: callOf(kept, 2) })
      opened.clock.now += 30 * second
      const { need, mark = -1 } = await tenant.lacks()
      expect(need).toBe('counts')
      const seed = (counts: Partial<QuotaCounts>) =>
        opened.admission.seed(tenant.id, mark, termsAt(noon), { ...nothing, ...counts })
      return { opened, tenant, lost, kept, admitted, seed }
    }

    test('keeps what counters in doubt hold for calls that are unfinished, drops the rest, and adds what they lack', async () => {
      const { tenant, kept, lost, admitted, seed, opened } = await doubtful()
      const queued = newId()
      const calls = [
        { id: callOf(kept, 1), tokens: 999 },
        { id: callOf(lost, 2), tokens: 30 },
      ]
      await seed({ recent: [noon], today: 3, spent: 240, calls, sessions: [kept, queued] })
      expect(await tenant.read()).toMatchObject({ minute: 2, today: 4, spent: 240, reserved: 100 + 30 + 20, sessions: 3 })
      expect(await tenant.settle(callOf(kept, 2), 200)).toMatchObject({ spent: 240, reserved: 150 })
      expect(await tenant.settle(callOf(kept, 1), 90)).toMatchObject({ spent: 330, reserved: 50 })
      expect(await tenant.admit({ key: 'key' })).toMatchObject({ runId: admitted, repeated: true })
      opened.clock.now += 30 * second
      expect(await tenant.read()).toMatchObject({ sessions: 1, reserved: 30 })
    })

    test('takes the counts of Postgres when it knows of more messages', async () => {
      const { tenant, seed } = await doubtful()
      await seed({ recent: [noon + 29 * second, noon + 50 * second, noon + 55 * second], today: 9 })
      expect(await tenant.read()).toMatchObject({ minute: 3, today: 9 })
    })

    test.each(['another seed', 'a settlement', 'a settlement of nothing'])(
      'does nothing when %s came since the counts were asked for',
      async (what) => {
        const { tenant, kept, lost, seed } = await doubtful()
        if (what === 'another seed') await seed({ spent: 1 })
        if (what === 'a settlement') await tenant.settle(callOf(kept, 1), 50)
        if (what === 'a settlement of nothing') await tenant.leave(lost)
        await seed({ spent: 2 })
        if (what === 'another seed') expect(await tenant.read()).toMatchObject({ spent: 1 })
        else expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
      },
    )

    test('does nothing when the counters were lost since', async () => {
      const { opened, tenant, seed } = await doubtful()
      await opened.admission.erase(tenant.id)
      await seed({ spent: 1 })
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
      await tenant.seed(termsAt(noon), { ...nothing, spent: 2 })
      await opened.admission.erase(tenant.id)
      await seed({ spent: 3 })
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
    })

    test('from everybody who was told that it is needed happens once', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      const asked = await Promise.all(Array.from({ length: 20 }, () => tenant.lacks()))
      await Promise.all(
        asked.map(({ mark = -1 }, index) =>
          opened.admission.seed(tenant.id, mark, termsAt(noon), { ...nothing, spent: 100 + index }),
        ),
      )
      const { spent } = await tenant.read()
      await opened.other.seed(tenant.id, asked[0]?.mark ?? -1, termsAt(noon), { ...nothing, spent: 9 })
      expect(await tenant.read()).toMatchObject({ spent })
    })

    test('takes thousands of sessions and calls', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      const sessions = Array.from({ length: 3_000 }, newId)
      const calls = sessions.slice(0, 2_000).map((run) => ({ id: callOf(run, 1), tokens: 3 }))
      const recent = Array.from({ length: 5_000 }, (_, index) => noon - index * 10)
      await tenant.seed(termsAt(noon), { ...nothing, recent, calls, sessions })
      expect(await tenant.read()).toMatchObject({ minute: 5_000, sessions: 3_000, reserved: 6_000 })
      opened.clock.now += leaseTtl
      expect(await tenant.lacks()).toMatchObject({ need: 'counts' })
      await tenant.seed(termsAt(noon), nothing)
      expect(await tenant.read()).toMatchObject({ sessions: 0, reserved: 0 })
    })
  })
})
