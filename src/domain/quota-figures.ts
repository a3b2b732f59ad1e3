import type { QuotaLimit } from '../data/generated/enums.ts'
import {
  type AdmissionRequest,
  bucketSpan,
  type QuotaReading,
  type QuotaRefusal,
  type QuotaTerms,
  retryHint,
  windowBuckets,
} from './admission.ts'

/** What the counters of a tenant say at one moment, wherever they are kept. */
export type QuotaFigures = {
  now: number
  terms: QuotaTerms
  /** The number of the bucket under way, counted in `bucketSpan` since the epoch. */
  bucket: number
  /** The messages in each bucket of the window, that one last. */
  window: readonly number[]
  today: number
  sessions: number
  spent: number
  reserved: number
}

export function readingOf({ bucket, window, ...figures }: QuotaFigures): QuotaReading {
  const oldest = window.findIndex((messages) => messages > 0)
  return {
    now: figures.now,
    terms: figures.terms,
    minute: sum(window),
    minuteResetAt: oldest < 0 ? figures.now : leavesAt(bucket, oldest),
    today: figures.today,
    sessions: figures.sessions,
    spent: figures.spent,
    reserved: figures.reserved,
  }
}

/** Why the message is refused, or null when every limit allows it. */
export function refusalOf(
  figures: QuotaFigures,
  { contentTokens, reserve }: Pick<AdmissionRequest, 'contentTokens' | 'reserve'>,
): QuotaRefusal | null {
  const { now, terms, window, today, sessions, spent, reserved } = figures
  const { limits, day, month } = terms
  const refusals: QuotaRefusal[] = []
  const refuse = (limit: QuotaLimit, used: number, retryAt: number | null) => {
    const max = limits[limit]
    refusals.push({ limit, max, remaining: Math.max(0, max - used), retryAt })
  }

  if (contentTokens > limits.TOKENS_PER_MESSAGE) refuse('TOKENS_PER_MESSAGE', 0, null)
  if (spent + reserved + reserve > limits.MONTHLY_TOKENS) {
    const without = now + retryHint
    const retryAt = reserve > limits.MONTHLY_TOKENS ? null : spent + reserve > limits.MONTHLY_TOKENS ? month.end : without
    refuse('MONTHLY_TOKENS', spent + reserved, retryAt)
  }
  if (today >= limits.MESSAGES_PER_DAY) refuse('MESSAGES_PER_DAY', today, day.end)
  const minute = sum(window)
  if (minute >= limits.MESSAGES_PER_MINUTE) {
    refuse('MESSAGES_PER_MINUTE', minute, windowAllowsAt(figures, limits.MESSAGES_PER_MINUTE))
  }
  if (sessions >= limits.CONCURRENT_SESSIONS) refuse('CONCURRENT_SESSIONS', sessions, now + retryHint)

  const until = ({ retryAt }: QuotaRefusal) => retryAt ?? Number.POSITIVE_INFINITY
  return refusals.reduce<QuotaRefusal | null>((last, next) => (last && until(last) >= until(next) ? last : next), null)
}

/** When enough of the oldest buckets have left for another message. */
function windowAllowsAt({ bucket, window }: QuotaFigures, max: number): number {
  let messages = sum(window)
  const last = window.findIndex((leaving) => {
    messages -= leaving
    return messages < max
  })
  return leavesAt(bucket, last)
}

/** When the bucket at `index` leaves the window whose last bucket has the number `bucket`. */
function leavesAt(bucket: number, index: number): number {
  const number = bucket - (windowBuckets - 1) + index
  return (number + windowBuckets) * bucketSpan
}

function sum(window: readonly number[]): number {
  return window.reduce((total, messages) => total + messages, 0)
}
