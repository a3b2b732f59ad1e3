import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Period } from '../../src/domain/admission.ts'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { checkTimeZone, dayIn, monthIn } from '../../src/domain/time-zone.ts'

const hour = 3_600_000
const at = (time: string) => Date.parse(time)
const shown = ({ start, end }: Period) => [new Date(start).toISOString(), new Date(end).toISOString()]
const hours = ({ start, end }: Period) => (end - start) / hour

describe('a day', () => {
  it('begins at midnight of its zone', () => {
    expect(shown(dayIn('UTC', at('2026-11-29T00:00:00Z')))).toEqual(['2026-11-29T00:00:00.000Z', '2026-11-30T00:00:00.000Z'])
    expect(shown(dayIn('Asia/Kathmandu', at('2026-11-29T18:14:59.999Z')))).toEqual([
      '2026-11-28T18:15:00.000Z',
      '2026-11-29T18:15:00.000Z',
    ])
    expect(shown(dayIn('Pacific/Kiritimati', at('2026-12-31T10:00:00Z')))[0]).toBe('2026-12-31T10:00:00.000Z')
  })

  it('has 23 or 25 hours when clocks are set', () => {
    expect(hours(dayIn('Europe/Berlin', at('2026-03-29T12:00:00Z')))).toBe(23)
    expect(hours(dayIn('Europe/Berlin', at('2026-10-25T12:00:00Z')))).toBe(25)
    expect(hours(dayIn('Australia/Lord_Howe', at('2026-04-04T20:00:00Z')))).toBe(24.5)
  })

  it('may begin at one, where clocks skip midnight', () => {
    expect(shown(dayIn('Africa/Cairo', at('2026-04-24T12:00:00Z')))[0]).toBe('2026-04-23T22:00:00.000Z')
    expect(hours(dayIn('Africa/Cairo', at('2026-04-24T12:00:00Z')))).toBe(23)
  })

  it('may be missing: in Samoa the 31st followed the 29th', () => {
    expect(shown(dayIn('Pacific/Apia', at('2011-12-30T09:59:59.999Z')))).toEqual([
      '2011-12-29T10:00:00.000Z',
      '2011-12-30T10:00:00.000Z',
    ])
    expect(shown(dayIn('Pacific/Apia', at('2011-12-30T10:00:00Z')))).toEqual([
      '2011-12-30T10:00:00.000Z',
      '2011-12-31T10:00:00.000Z',
    ])
  })
})

describe('a month', () => {
  it('begins at the first midnight of it in its zone, and may be the last of a year', () => {
    expect(shown(monthIn('Europe/Berlin', at('2026-12-31T22:59:59.999Z')))).toEqual([
      '2026-11-30T23:00:00.000Z',
      '2026-12-31T23:00:00.000Z',
    ])
    expect(hours(monthIn('Europe/Berlin', at('2026-03-15T00:00:00Z')))).toBe(31 * 24 - 1)
    expect(hours(monthIn('UTC', at('2028-02-15T00:00:00Z')))).toBe(29 * 24)
  })
})

it.each([dayIn, monthIn])('%o has no gaps and no overlaps, in any zone at any time', (periodIn) => {
  const zones = fc.constantFrom(...Intl.supportedValuesOf('timeZone'), 'UTC')
  const times = fc.integer({ min: at('1995-01-01T00:00:00Z'), max: at('2060-01-01T00:00:00Z') })
  fc.assert(
    fc.property(zones, times, (zone, time) => {
      const period = periodIn(zone, time)
      expect(period.start).toBeLessThanOrEqual(time)
      expect(period.end).toBeGreaterThan(time)
      expect(periodIn(zone, period.start)).toEqual(period)
      expect(periodIn(zone, period.end - 1)).toEqual(period)
      expect(periodIn(zone, period.end).start).toBe(period.end)
      expect(periodIn(zone, period.start - 1).end).toBe(period.start)
    }),
    { numRuns: 50 },
  )
})

describe('a time zone', () => {
  it.each(['UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'Pacific/Apia', 'America/Argentina/Buenos_Aires', 'Etc/GMT+5'])(
    'may be %s',
    (zone) => {
      expect(checkTimeZone('timeZone', zone)).toBe(zone)
    },
  )

  it('is written as the database of time zones writes it', () => {
    expect(checkTimeZone('timeZone', 'europe/BERLIN')).toBe('Europe/Berlin')
  })

  it.each(['', 'Mars/Olympus', '+02:00', 'UTC+2', 'Europe/Berlin ', 'Europe/Berlin\0', '__proto__', 'x'.repeat(10_000)])(
    'is not %j',
    (zone) => {
      expect(() => checkTimeZone('timeZone', zone)).toThrow(ValidationProblem)
    },
  )
})
