import { ValidationProblem } from './errors.ts'

/** The last moment of the year 9999, in milliseconds since the epoch: no later one is written with four digits for the year. */
export const latestTime = Date.UTC(10_000, 0) - 1

/** `time` when Postgres can compare with it; undefined for none. Throws a ValidationProblem at `path` outside of the years 1 to 9999. */
export function checkTime(path: string, time: Date | null | undefined): Date | undefined {
  if (time === null || time === undefined) return undefined
  if (time.getUTCFullYear() >= 1 && time.getTime() <= latestTime) return time
  throw new ValidationProblem([path], 'The time must be in the years 1 to 9999.')
}
