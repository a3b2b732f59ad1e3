import type { QuotaReading } from '../domain/admission.ts'
import type { LimitReached } from '../domain/errors.ts'
import type { QuotaNotes } from '../schema/quota-notes.ts'

/** What HTTP adds to an answer whose body says the same. */
export type QuotaHints = { status?: number; headers: Record<string, string> }

/**
 * Status and headers for an operation whose mutations ran into limits, or could have; null when nothing is to be said. 429 or 413 when
 * a limit refused every one of them: whoever had anything done gets 200.
 */
export function quotaHints({ fields, refusals, reading }: QuotaNotes): QuotaHints | null {
  if (!reading) return null
  const headers = rateLimits(reading, refusals.at(-1) ?? null)
  if (refusals.length < fields) return { headers }
  const waits = refusals.flatMap(({ retryAfterSeconds }) => retryAfterSeconds ?? [])
  if (waits.length > 0) headers['Retry-After'] = String(Math.max(...waits))
  const isTooLong = refusals.every(({ refusal }) => refusal.limit === 'TOKENS_PER_MESSAGE')
  return { status: isTooLong ? 413 : 429, headers }
}

/**
 * The fields of draft-ietf-httpapi-ratelimit-headers-10. Its registry of units has none for tokens: `qu="tokens"` is of our own. The
 * limit on one message is none of a rate, and not told here.
 */
function rateLimits(reading: QuotaReading, last: LimitReached | null): Record<string, string> {
  const { now, terms, minute, minuteResetAt, today, sessions, spent, reserved } = reading
  const { limits, day, month } = terms
  const seconds = (milliseconds: number) => Math.max(0, Math.ceil(milliseconds / 1_000))
  const until = (time: number) => `;t=${seconds(time - now)}`
  const minuteFree = last?.quota === reading && last.refusal.limit === 'MESSAGES_PER_MINUTE' ? last.refusal.retryAt : null
  const left = (max: number, used: number) => Math.max(0, max - used)
  return {
    'RateLimit-Policy': [
      `"minute";q=${limits.MESSAGES_PER_MINUTE};w=60`,
      `"day";q=${limits.MESSAGES_PER_DAY};w=${seconds(day.end - day.start)}`,
      `"sessions";q=${limits.CONCURRENT_SESSIONS};qu="concurrent-requests"`,
      `"month";q=${limits.MONTHLY_TOKENS};w=${seconds(month.end - month.start)};qu="tokens"`,
    ].join(', '),
    RateLimit: [
      `"minute";r=${left(limits.MESSAGES_PER_MINUTE, minute)}${until(minuteFree ?? minuteResetAt)}`,
      `"day";r=${left(limits.MESSAGES_PER_DAY, today)}${until(day.end)}`,
      `"sessions";r=${left(limits.CONCURRENT_SESSIONS, sessions)}`,
      `"month";r=${left(limits.MONTHLY_TOKENS, spent + reserved)}${until(month.end)}`,
    ].join(', '),
  }
}
