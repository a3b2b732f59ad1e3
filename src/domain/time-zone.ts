import type { Period } from './admission.ts'
import { ValidationProblem } from './errors.ts'

const hour = 3_600_000

/** No zone was ever further from UTC than 16 hours (Manila before 1845). */
const furthest = 16 * hour

/** `zone`, in the letters of the time zone database unless it is another name of a zone. Throws a ValidationProblem at `path` when that has no such zone. */
export function checkTimeZone(path: string, zone: string): string {
  // Offsets, as in +02:00, are taken too by some, and have no daylight saving time.
  if (/^[A-Za-z][\w+/-]{0,99}$/.test(zone)) {
    const known = Intl.supportedValuesOf('timeZone').find((name) => name.toLowerCase() === zone.toLowerCase())
    if (known !== undefined) return known
    // Those that are another name of one, and UTC, are not listed.
    if (isKnown(zone)) return zone
  }
  throw new ValidationProblem([path], 'There is no such time zone. Give one of the IANA database, as in Europe/Berlin.')
}

/** The calendar day of `zone` that the moment `at` is in. Milliseconds. */
export function dayIn(zone: string, at: number): Period {
  const { year, month, day } = dateIn(zone, at)
  return { start: beginning(zone, year, month, day), end: beginning(zone, year, month, day + 1) }
}

/** The calendar month of `zone` that the moment `at` is in. Milliseconds. */
export function monthIn(zone: string, at: number): Period {
  const { year, month } = dateIn(zone, at)
  return { start: beginning(zone, year, month, 1), end: beginning(zone, year, month + 1, 1) }
}

/** The first moment of a month in the zone, in milliseconds. `month` counts from 1; one beyond the last is of the next year. */
export function monthBeginning(zone: string, year: number, month: number): number {
  return beginning(zone, year, month, 1)
}

/**
 * The first moment of the date in the zone, or of the next date that there is: clocks may skip the midnight of a day, or all of it
 * (Pacific/Apia had no 30 December 2011). A day or month beyond the last is one of the next month or year.
 */
function beginning(zone: string, year: number, month: number, day: number): number {
  const date = Date.UTC(year, month - 1, day)
  let [before, after] = [date - furthest, date + furthest]
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2)
    if (dateNumber(zone, middle) < date) before = middle
    else after = middle
  }
  return after
}

/** The date in the zone at this moment, as the midnight of that date in UTC. */
function dateNumber(zone: string, at: number): number {
  const { year, month, day } = dateIn(zone, at)
  return Date.UTC(year, month - 1, day)
}

const calendars = new Map<string, Intl.DateTimeFormat>()

function dateIn(zone: string, at: number): { year: number; month: number; day: number } {
  const parts = new Map(
    calendarOf(zone)
      .formatToParts(at)
      .map(({ type, value }) => [type, Number(value)]),
  )
  const of = (part: Intl.DateTimeFormatPartTypes) => parts.get(part) ?? Number.NaN
  return { year: of('year'), month: of('month'), day: of('day') }
}

/** Making one takes a thousand times as long as using it. There are some 600 zones. */
function calendarOf(zone: string): Intl.DateTimeFormat {
  const known = calendars.get(zone)
  if (known) return known
  const calendar = new Intl.DateTimeFormat('en', {
    ...{ timeZone: zone, calendar: 'gregory', numberingSystem: 'latn' },
    ...{ year: 'numeric', month: 'numeric', day: 'numeric' },
  })
  calendars.set(zone, calendar)
  return calendar
}

function isKnown(zone: string): boolean {
  try {
    calendarOf(zone)
    return true
  } catch {
    return false
  }
}
