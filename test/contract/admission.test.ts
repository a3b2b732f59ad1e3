import { describe, expect, test, vi } from 'vitest'
import { type Limits, type QuotaReading, retryHint, sharedAdmissionTtl } from '../../src/domain/admission.ts'
import { newId } from '../../src/domain/ids.ts'
import {
  day,
  describeAdmission,
  expectAdmitted,
  hour,
  noon,
  nothing,
  type OpenAdmission,
  second,
  Tenant,
  termsAt,
} from './admission-world.ts'

/** The bucket of the window that noon is in begins here. */
const bucketOfNoon = noon - 1_234

describeAdmission('admission', (open) => {
  describe('counters', () => {
    test('are to be seeded before anything is decided, and say the same to everybody from then on', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      const unseeded = { outcome: 'unseeded', need: 'counts', now: noon, mark: expect.any(Number) }
      const asked = [await tenant.admit(), await tenant.hold(newId(), 1), await opened.other.read(tenant.id, 1)]
      expect(asked).toEqual([unseeded, unseeded, unseeded])
      expect(await tenant.leave(newId())).toBeNull()

      const [run, session] = [newId(), newId()]
      const terms = termsAt(noon)
      await tenant.seed(terms, {
        recent: [noon - 62 * second, noon - 60 * second, noon - 10 * second, noon, noon + 3 * second, noon + hour],
        ...{ today: 7, spent: 2 ** 52 + 1, calls: [{ id: `${run}/3/2`, tokens: 2 ** 40 + 1 }], sessions: [run, session] },
      })
      expect(await tenant.read()).toEqual({
        ...{ now: noon, terms, minute: 5, minuteResetAt: bucketOfNoon + 5 * second, today: 7, sessions: 2 },
        ...{ spent: 2 ** 52 + 1, reserved: 2 ** 40 + 1 },
      } satisfies QuotaReading)
    })

    test('ask for terms that are as new as the caller knows of, and keep the newest', async () => {
      const tenant = await Tenant.seeded(await open(), { MESSAGES_PER_MINUTE: 5 })
      await tenant.admitted()
      const before = await tenant.read()
      expect(await tenant.admit({ version: 2 })).toMatchObject({ outcome: 'unseeded', need: 'terms', now: noon })
      expect(await tenant.hold(newId(), 1, { version: 2 })).toMatchObject({ outcome: 'unseeded', need: 'terms' })
      const newer = termsAt(noon, { MESSAGES_PER_MINUTE: 1 }, { version: 3 })
      await tenant.seed(newer, null)
      expect(await tenant.read(2)).toEqual({ ...before, terms: newer })
      await tenant.seed(termsAt(noon, {}, { version: 2 }), null)
      expect(await tenant.read(1)).toEqual({ ...before, terms: newer })
      expect(await tenant.admit()).toMatchObject({ outcome: 'refused', refusal: { limit: 'MESSAGES_PER_MINUTE', max: 1 } })
    })

    test('ask for terms when an override ends, and take none that have ended', async () => {
      const opened = await open()
      const tenant = new Tenant(opened)
      const terms = termsAt(noon, {}, { validUntil: noon + 5_000 })
      await tenant.seed(terms, nothing)
      expect((await tenant.read()).terms).toEqual(terms)
      opened.clock.now += 4_999
      expect(await tenant.lacks()).toEqual({})
      opened.clock.now += 1
      expect(await tenant.lacks()).toMatchObject({ need: 'terms', now: noon + 5_000 })
      await tenant.seed(terms, null)
      expect(await tenant.lacks()).toMatchObject({ need: 'terms' })
      await tenant.seed(termsAt(noon), null)
      expect(await tenant.lacks()).toEqual({})
    })

    test('begin a new day and a new month at zero, with what is held and what the minute had', async () => {
      const opened = await open()
      opened.clock.now = termsAt(noon).month.end - 2 * second
      const tenant = await Tenant.seeded(opened, {}, { today: 3, spent: 500 })
      await tenant.hold(await tenant.admitted(), 40)
      opened.clock.now += 2 * second - 1
      expect(await tenant.read()).toMatchObject({ today: 4, spent: 500, reserved: 40 })
      opened.clock.now += 1
      expect(await tenant.lacks()).toMatchObject({ need: 'terms', now: opened.clock.now })
      expect(await tenant.leave(newId())).toBeNull()
      await tenant.seed(termsAt(opened.clock.now), null)
      expect(await tenant.read()).toMatchObject({ minute: 1, today: 0, spent: 0, reserved: 40, sessions: 1 })
    })

    test('keep the month when only the day is over', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, {}, { today: 3, spent: 500 })
      opened.clock.now += day
      expect(await tenant.lacks()).toMatchObject({ need: 'terms' })
      await tenant.seed(termsAt(opened.clock.now), null)
      expect(await tenant.read()).toMatchObject({ minute: 0, minuteResetAt: opened.clock.now, today: 0, spent: 500 })
    })

    test.each(['day', 'month'] as const)(
      'are to be counted again when the %s has other bounds, as in another time zone',
      async (period) => {
        const tenant = await Tenant.seeded(await open(), {}, { today: 3, spent: 500 })
        const terms = termsAt(noon, {}, { version: 2 })
        const { start, end } = terms[period]
        const moved = { ...terms, [period]: { start: start + hour, end: end + hour } }
        await tenant.seed(moved, null)
        expect(await tenant.lacks(2)).toMatchObject({ need: 'counts' })
        await tenant.seed(moved, { ...nothing, today: 2, spent: 400 })
        expect(await tenant.read(2)).toMatchObject({ terms: moved, today: period === 'day' ? 2 : 3, spent: 400 })
      },
    )
  })

  describe('admit', () => {
    const limits: [name: string, limits: Partial<Limits>, refusal: object][] = [
      ['minute', { MESSAGES_PER_MINUTE: 2 }, { limit: 'MESSAGES_PER_MINUTE', max: 2, retryAt: bucketOfNoon + 65 * second }],
      ['day', { MESSAGES_PER_DAY: 2 }, { limit: 'MESSAGES_PER_DAY', max: 2, retryAt: termsAt(noon).day.end }],
      ['sessions', { CONCURRENT_SESSIONS: 2 }, { limit: 'CONCURRENT_SESSIONS', max: 2, retryAt: noon + retryHint }],
      ['what others hold', { MONTHLY_TOKENS: 29 }, { limit: 'MONTHLY_TOKENS', max: 29, remaining: 9, retryAt: noon + retryHint }],
    ]
    test.each(limits)(
      'refuses what the limit of the %s does not allow, and counts nothing of it',
      async (_name, limit, refusal) => {
        const tenant = await Tenant.seeded(await open(), limit)
        expect(await tenant.admit({ reserve: 10 })).toMatchObject({ outcome: 'admitted', repeated: false, quota: { minute: 1 } })
        await tenant.admitted({ reserve: 10 })
        const before = await tenant.read()
        expect(before).toMatchObject({ minute: 2, today: 2, sessions: 2, spent: 0, reserved: 20 })
        for (let again = 0; again < 3; again++) {
          const decision = await tenant.admit({ reserve: 10, key: `key ${again}` })
          expect(decision).toEqual({ outcome: 'refused', refusal: { remaining: 0, ...refusal }, quota: before })
        }
        expect(await tenant.read()).toEqual(before)
      },
    )

    test('tells of a budget that is spent when the next month begins, and of a message no budget allows that none does', async () => {
      const tenant = await Tenant.seeded(await open(), { MONTHLY_TOKENS: 100 }, { spent: 91 })
      expect(await tenant.admit({ reserve: 10 })).toMatchObject({
        refusal: { limit: 'MONTHLY_TOKENS', max: 100, remaining: 9, retryAt: termsAt(noon).month.end },
      })
      expect(await tenant.admit({ reserve: 101 })).toMatchObject({ refusal: { limit: 'MONTHLY_TOKENS', retryAt: null } })
      expect(await tenant.admit({ reserve: 9 })).toMatchObject({ outcome: 'admitted', quota: { spent: 91, reserved: 9 } })
    })

    test('tells of the limit that refuses for the longest, and first of a message that is too long', async () => {
      const opened = await open()
      const limits = { MESSAGES_PER_MINUTE: 1, MESSAGES_PER_DAY: 2, CONCURRENT_SESSIONS: 1, MONTHLY_TOKENS: 10 }
      const tenant = await Tenant.seeded(opened, limits, { spent: 1 })
      const run = await tenant.admitted({ reserve: 1 })
      const refusal = async (request: object) => ((await tenant.admit(request)) as { refusal?: object }).refusal
      expect(await refusal({})).toMatchObject({ limit: 'MESSAGES_PER_MINUTE' })
      expect(await refusal({ reserve: 10 })).toMatchObject({ limit: 'MONTHLY_TOKENS', retryAt: termsAt(noon).month.end })
      expect(await refusal({ reserve: 10, contentTokens: 1_001 })).toEqual({
        ...{ limit: 'TOKENS_PER_MESSAGE', max: 1_000, remaining: 1_000, retryAt: null },
      })
      await tenant.leave(run)
      opened.clock.now += 65 * second
      await tenant.admitted()
      expect(await refusal({})).toMatchObject({ limit: 'MESSAGES_PER_DAY', retryAt: termsAt(noon).day.end })
    })

    test('at the time it told of, and not one millisecond before', async () => {
      const opened = await open()
      const limits = { MESSAGES_PER_MINUTE: 3, MESSAGES_PER_DAY: 9 }
      const tenant = await Tenant.seeded(opened, limits)
      const refusals: string[] = []
      while (refusals.at(-1) !== 'MESSAGES_PER_DAY') {
        const decision = await tenant.admit()
        if (decision.outcome !== 'refused') {
          opened.clock.now += 7 * second
          continue
        }
        const { limit, retryAt } = decision.refusal
        refusals.push(limit)
        opened.clock.now = (retryAt ?? 0) - 1
        expect(await tenant.admit()).toMatchObject({ outcome: 'refused', refusal: { limit, retryAt } })
        opened.clock.now++
        if ((await tenant.lacks()).need) await tenant.seed(termsAt(opened.clock.now, limits), null)
        await tenant.admitted()
      }
      expect(refusals).toEqual([...Array(6).fill('MESSAGES_PER_MINUTE'), 'MESSAGES_PER_DAY'])
      expect(opened.clock.now).toBe(termsAt(noon).day.end)
    })

    test('under one key once, however many ask at once', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, { MESSAGES_PER_MINUTE: 2 })
      const decisions = await Promise.all(Array.from({ length: 100 }, () => tenant.admit({ key: 'one; two/ü', reserve: 5 })))
      const admitted = decisions.map(expectAdmitted)
      expect(new Set(admitted.map(({ runId }) => runId)).size).toBe(1)
      expect(admitted.filter(({ repeated }) => !repeated)).toHaveLength(1)
      expect(await tenant.read()).toMatchObject({ minute: 1, today: 1, sessions: 1, reserved: 5 })
      const another = expectAdmitted(await tenant.admit({ key: 'another' }))
      expect(another).toMatchObject({ repeated: false, quota: { minute: 2 } })
      expect(await tenant.admit({ key: 'one; two/ü', contentTokens: 5_000 })).toMatchObject({
        repeated: true,
        runId: admitted[0]?.runId,
      })
      expect(await tenant.admit({ key: 'a third' })).toMatchObject({ outcome: 'refused' })
    })

    test('shares an admission for ten minutes, also when its run is over', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const run = await tenant.admitted({ key: 'key' })
      await tenant.leave(run)
      opened.clock.now += sharedAdmissionTtl - 1
      expect(await tenant.admit({ key: 'key' })).toMatchObject({ runId: run, repeated: true, quota: { sessions: 0 } })
      opened.clock.now += 1
      const next = await tenant.admit({ key: 'key' })
      expect(next).toMatchObject({ repeated: false, quota: { today: 2, sessions: 1 } })
      expect(expectAdmitted(next).runId).not.toBe(run)
    })

    test('a run once that is admitted already', async () => {
      const tenant = await Tenant.seeded(await open())
      const run = await tenant.admitted({ reserve: 3 })
      expect(await tenant.admit({ runId: run, reserve: 4 })).toMatchObject({
        runId: run,
        repeated: true,
        quota: { today: 1, reserved: 3 },
      })
    })

    test('each tenant by its own', { tags: ['rule-13'] }, async () => {
      const opened = await open()
      const [one, two] = [
        await Tenant.seeded(opened, { MESSAGES_PER_DAY: 1 }),
        await Tenant.seeded(opened, { MESSAGES_PER_DAY: 1 }),
      ]
      const run = await one.admitted({ key: 'key' })
      expect(await two.admit({ key: 'key' })).toMatchObject({ repeated: false })
      expect(await one.admit()).toMatchObject({ outcome: 'refused' })
      await two.leave(run)
      expect(await one.read()).toMatchObject({ sessions: 1 })
    })
  })

  describe('release', () => {
    test('takes an admission back, once', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened, {}, { today: 4 })
      await tenant.admitted()
      const before = await tenant.read()
      const run = await tenant.admitted({ key: 'key', reserve: 9 })
      opened.clock.now += 12 * second
      await tenant.release(run, 'key')
      await tenant.release(run, 'key')
      expect(await tenant.read()).toEqual({ ...before, now: opened.clock.now })
      expect(await tenant.admit({ key: 'key' })).toMatchObject({ repeated: false })
      const alone = await tenant.admitted()
      await tenant.release(alone)
      await tenant.release(alone)
      expect(await tenant.read()).toMatchObject({ today: 6, sessions: 2 })
    })

    test('waits for the last of those that share it', async () => {
      const tenant = await Tenant.seeded(await open())
      const run = await tenant.admitted({ key: 'key' })
      await tenant.admitted({ key: 'key' })
      await tenant.release(run, 'key')
      expect(await tenant.read()).toMatchObject({ today: 1, sessions: 1 })
      await tenant.release(newId(), 'key')
      await tenant.release(run, 'key')
      expect(await tenant.read()).toMatchObject({ today: 0, sessions: 0 })
    })

    test('leaves alone what has begun, has ended, was seeded, or is of yesterday', async () => {
      const opened = await open()
      opened.clock.now = termsAt(noon).day.end - second
      const seeded = newId()
      const tenant = await Tenant.seeded(opened, {}, { today: 4, sessions: [seeded] })
      const [begun, yesterdays] = [await tenant.admitted(), await tenant.admitted()]
      await tenant.hold(begun, 10)
      for (const run of [seeded, begun, newId()]) await tenant.release(run)
      expect(await tenant.read()).toMatchObject({ minute: 2, today: 6, sessions: 3, reserved: 10 })
      opened.clock.now += second
      await tenant.seed(termsAt(opened.clock.now), null)
      await tenant.admitted()
      await tenant.release(yesterdays)
      expect(await tenant.read()).toMatchObject({ minute: 2, today: 1, sessions: 3 })
    })
  })

  describe('subscribe', () => {
    /** Counts what it is told of the tenant. */
    async function listen({ other }: OpenAdmission, tenant: Tenant) {
      const heard = { times: 0 }
      const stop = await other.subscribe(tenant.id, () => heard.times++)
      return { heard, stop }
    }

    test('tells of every change, to whoever asked, until it leaves', async () => {
      const opened = await open()
      const [tenant, neighbour] = [await Tenant.seeded(opened), await Tenant.seeded(opened)]
      const [{ heard, stop }, { heard: also }] = [await listen(opened, tenant), await listen(opened, tenant)]
      const { heard: elsewhere } = await listen(opened, neighbour)
      const told = (times: number) => vi.waitFor(() => expect([heard.times, also.times]).toEqual([times, times]))

      const run = await tenant.admitted()
      await told(1)
      await tenant.hold(run, 10)
      await told(2)
      await tenant.settle(`${run}/1/1`, 5)
      await told(3)
      await tenant.release(await tenant.admitted())
      await told(5)
      await tenant.seed(termsAt(noon, {}, { version: 2 }), null)
      await told(6)
      await tenant.renew({ runId: run, call: null })
      await tenant.read()
      await tenant.admit({ contentTokens: 2_000 })
      await stop()
      await tenant.leave(run)
      await vi.waitFor(() => expect([heard.times, also.times]).toEqual([6, 7]))
      expect(elsewhere.times).toBe(0)
    })

    test('reports what a listener throws', async () => {
      const opened = await open()
      const tenant = await Tenant.seeded(opened)
      const failure = new Error('from a listener')
      await opened.other.subscribe(tenant.id, () => {
        throw failure
      })
      await tenant.admitted()
      await vi.waitFor(() => expect(opened.errors).toEqual([failure]))
    })
  })

  test("erase forgets all of the tenant's counters and none of its neighbour's, and tells", { tags: ['rule-13'] }, async () => {
    const opened = await open()
    const tenant = await Tenant.seeded(opened, {}, { today: 4, spent: 5, sessions: [newId()] })
    const neighbour = await Tenant.seeded(opened, {}, { today: 6 })
    await tenant.admitted({ key: 'key' })
    expect([await opened.other.count(tenant.id), await opened.other.count(neighbour.id)]).toEqual([1, 1])
    const told = vi.fn()
    await opened.other.subscribe(tenant.id, told)
    await opened.admission.erase(tenant.id)
    expect([await opened.other.count(tenant.id), await opened.other.count(neighbour.id)]).toEqual([0, 1])
    await vi.waitFor(() => expect(told).toHaveBeenCalledOnce())
    await tenant.release(newId())
    await tenant.renew({ runId: newId(), call: null })
    expect(await tenant.leave(newId())).toBeNull()
    expect(await opened.other.count(tenant.id)).toBe(0)
    expect(await tenant.admit({ key: 'key' })).toMatchObject({ outcome: 'unseeded', need: 'counts' })
    expect(await neighbour.read()).toMatchObject({ today: 6 })
  })
})
