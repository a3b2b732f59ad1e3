import { appendFileSync } from 'node:fs'

/** How many times a key is revoked, and a tenant suspended, in each way: `REVOCATIONS`, by default as often as suits every run. */
export const revocations = Number(process.env['REVOCATIONS'] ?? 2)

/** Where the times are written, as JSON lines: `REVOCATION_TIMES`, by default nowhere. */
const file = process.env['REVOCATION_TIMES']

/** Notes how long each end took, in milliseconds. */
export function noteTimes(what: string, times: readonly Record<string, number>[]): void {
  if (file !== undefined) appendFileSync(file, `${JSON.stringify({ what, times })}\n`)
}
