import type { DateRange } from './ledger-sums.ts'
import { monthBeginning, monthIn } from './time-zone.ts'

/** A time zone that held until a moment, in milliseconds. */
export type PastTimeZone = { zone: string; until: number }

/** When a tenant's months begin: its time zone, and those before it, the oldest first. */
export type BillingClock = { timeZone: string; pastTimeZones: readonly PastTimeZone[] }

/** A month as the calendar calls it, such as 2026-11. */
const monthName = /^(\d{4})-(0[1-9]|1[0-2])$/

/** The year and the month, from 1 on, of a name such as 2026-11; null when it is none. */
export function parseMonth(name: string): { year: number; month: number } | null {
  const found = monthName.exec(name)
  return found && { year: Number(found[1]), month: Number(found[2]) }
}

/**
 * The month, by the time zone that held when it began and the one that held when it ended. Months follow one another without a gap
 * or an overlap, and one that has begun keeps its beginning, whatever zone comes later.
 */
export function billingMonth(clock: BillingClock, { year, month }: { year: number; month: number }): DateRange {
  return { from: new Date(beginningOf(clock, year, month)), to: new Date(beginningOf(clock, year, month + 1)) }
}

/** The month that the moment is in, as `billingMonth` has it. */
export function billingMonthAt(clock: BillingClock, at: number): { year: number; month: number } {
  const { start, end } = monthIn(clock.timeZone, at)
  const middle = new Date((start + end) / 2)
  const { year, month } = { year: middle.getUTCFullYear(), month: middle.getUTCMonth() + 1 }
  // Another zone may have begun or ended it some hours earlier or later.
  for (const step of [0, 1, -1]) {
    const found = { year, month: month + step }
    const { from, to } = billingMonth(clock, found)
    if (at >= from.getTime() && at < to.getTime()) return found
  }
  throw new Error('No month has this moment.')
}

/** As the calendar calls it, such as 2026-11. A month before the first or beyond the last is one of another year. */
export function nameOfMonth({ year, month }: { year: number; month: number }): string {
  return new Date(Date.UTC(year, month - 1)).toISOString().slice(0, 7)
}

/** The first moment at which the zone of that moment says that the month has begun. */
function beginningOf({ timeZone, pastTimeZones }: BillingClock, year: number, month: number): number {
  let since = Number.NEGATIVE_INFINITY
  for (const { zone, until } of pastTimeZones) {
    const begins = Math.max(since, monthBeginning(zone, year, month))
    if (begins < until) return begins
    since = until
  }
  return Math.max(since, monthBeginning(timeZone, year, month))
}
