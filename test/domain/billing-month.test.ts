import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type BillingClock, billingMonth, parseMonth } from '../../src/domain/billing-month.ts'

const zones = ['UTC', 'Pacific/Kiritimati', 'Pacific/Pago_Pago', 'Asia/Kathmandu', 'America/New_York', 'Australia/Lord_Howe']
const year2026 = { min: Date.UTC(2026, 0), max: Date.UTC(2027, 0) }

const clocks: fc.Arbitrary<BillingClock> = fc
  .record({
    timeZone: fc.constantFrom(...zones),
    past: fc.array(fc.record({ zone: fc.constantFrom(...zones), until: fc.integer(year2026) }), { maxLength: 5 }),
  })
  .map(({ timeZone, past }) => ({ timeZone, pastTimeZones: past.toSorted((one, other) => one.until - other.until) }))

const months = Array.from({ length: 14 }, (_, index) => ({ year: 2026, month: index }))

describe('the months of a tenant', () => {
  it('follow one another without a gap or an overlap, whatever zones it had', () => {
    fc.assert(
      fc.property(clocks, (clock) => {
        const ranges = months.map((month) => billingMonth(clock, month))
        for (const [index, { from, to }] of ranges.entries()) {
          expect(from.getTime()).toBeLessThan(to.getTime())
          const next = ranges[index + 1]
          if (next) expect(to).toEqual(next.from)
        }
      }),
    )
  })

  it('that have begun keep their beginning, and those that are over their end, whatever zone comes next', () => {
    fc.assert(
      fc.property(clocks, fc.integer(year2026), fc.constantFrom(...zones), (clock, at, zone) => {
        const now = Math.max(at, ...clock.pastTimeZones.map(({ until }) => until + 1))
        const after = {
          timeZone: zone,
          pastTimeZones: [...clock.pastTimeZones, { zone: clock.timeZone, until: now }],
        }
        for (const month of months) {
          const [before, moved] = [billingMonth(clock, month), billingMonth(after, month)]
          if (before.from.getTime() < now) expect(moved.from).toEqual(before.from)
          if (before.to.getTime() < now) expect(moved.to).toEqual(before.to)
        }
      }),
    )
  })

  it('are those of the calendar where the zone never changed', () => {
    const range = billingMonth({ timeZone: 'Asia/Kathmandu', pastTimeZones: [] }, { year: 2026, month: 11 })
    expect(range).toEqual({ from: new Date('2026-10-31T18:15:00Z'), to: new Date('2026-11-30T18:15:00Z') })
  })

  it.each(['2026-13', '2026-00', '26-01', '2026-1', 'November', '', '2026-11-01'])('are not called %j', (name) => {
    expect(parseMonth(name)).toBeNull()
  })
})
