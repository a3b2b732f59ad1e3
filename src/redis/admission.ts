import type { ClientContext, Result } from 'ioredis'
import {
  type Admission,
  type AdmissionDecision,
  type AdmissionRequest,
  bucketSpan,
  type CallId,
  type HoldOutcome,
  type HoldRequest,
  type QuotaCounts,
  type QuotaReading,
  type QuotaTerms,
  type SettledCall,
  type Unseeded,
  windowBuckets,
} from '../domain/admission.ts'
import type { TenantId } from '../domain/ids.ts'
import type { Unsubscribe } from '../domain/ports.ts'
import { type QuotaFigures, readingOf, refusalOf } from '../domain/quota-figures.ts'
import { admissionScripts } from './admission-scripts.ts'
import { RedisChannels } from './channels.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { quotaKeys } from './key-space.ts'

/** `outcome` says what `detail` is: a run's id, a number, or nothing. */
type Answer = [outcome: Buffer, now: number, counts: Buffer, terms: Buffer | null, detail?: Buffer | number]

type Script<Context extends ClientContext, Answered> = (
  key: string,
  channel: string,
  now: string,
  ...args: (string | number | Buffer)[]
) => Result<Answered, Context>

declare module 'ioredis' {
  interface RedisCommander<Context> {
    quotaAdmitBuffer: Script<Context, Answer>
    quotaSeed: Script<Context, unknown>
    quotaRelease: Script<Context, unknown>
    quotaHoldBuffer: Script<Context, Answer>
    quotaSettleBuffer: Script<Context, Answer>
    quotaDoubt: Script<Context, unknown>
    quotaRenew: Script<Context, unknown>
    quotaReadBuffer: Script<Context, Answer>
  }
}

/** Stands for no end, as the scripts count with numbers. */
const never = Number.MAX_SAFE_INTEGER

/** The admission that all instances share: per tenant one hash, which one script per call changes. */
export class RedisAdmission implements Admission {
  readonly #connection: RedisConnection
  readonly #channels: RedisChannels<void>
  readonly #clock: (() => number) | null

  /** `now` replaces the clock of Redis, in milliseconds since the epoch. */
  constructor(connection: RedisConnection, options: { now?: () => number } = {}) {
    for (const [name, lua] of Object.entries(admissionScripts)) connection.commands.defineCommand(name, { numberOfKeys: 1, lua })
    this.#connection = connection
    this.#channels = new RedisChannels<void>(connection, () => undefined)
    this.#clock = options.now ?? null
  }

  async admit(tenantId: TenantId, request: AdmissionRequest): Promise<AdmissionDecision> {
    const { version, runId, key, contentTokens, reserve } = request
    const answer = await replyTo(
      this.#connection.commands.quotaAdmitBuffer(
        ...this.#aim(tenantId),
        ...[version, contentTokens, reserve, runField(runId), sharedField(key)],
      ),
    )
    const outcome = outcomeOf(answer)
    if (isUnseeded(outcome)) return unseeded(outcome, answer)
    const figures = figuresOf(answer)
    const quota = readingOf(figures)
    if (outcome !== 'refused') {
      return { outcome: 'admitted', runId: String(answer[4]), repeated: outcome === 'repeated', quota }
    }
    const refusal = refusalOf(figures, request)
    if (!refusal) throw new Error('The message was refused, and no limit says why.')
    return { outcome, refusal, quota }
  }

  async seed(tenantId: TenantId, mark: number, terms: QuotaTerms, counts: QuotaCounts | null): Promise<void> {
    const encoded = counts === null ? [0] : [1, ...encodeCounts(counts)]
    await replyTo(this.#connection.commands.quotaSeed(...this.#aim(tenantId), mark, encodeTerms(terms), ...encoded))
  }

  async release(tenantId: TenantId, { runId, key }: Pick<AdmissionRequest, 'runId' | 'key'>): Promise<void> {
    await replyTo(this.#connection.commands.quotaRelease(...this.#aim(tenantId), runField(runId), sharedField(key)))
  }

  async hold(tenantId: TenantId, { version, runId, call, tokens, least }: HoldRequest): Promise<HoldOutcome> {
    const answer = await replyTo(
      this.#connection.commands.quotaHoldBuffer(
        ...this.#aim(tenantId),
        ...[version, runField(runId), withinRun(call), tokens, least],
      ),
    )
    const outcome = outcomeOf(answer)
    if (isUnseeded(outcome)) return unseeded(outcome, answer)
    const quota = readingOf(figuresOf(answer))
    if (outcome === 'held') return { outcome, tokens: Number(answer[4]), quota }
    return { outcome: outcome === 'full' ? 'full' : 'exhausted', quota }
  }

  async settle(
    tenantId: TenantId,
    { runId, calls, leave }: { runId: string; calls: readonly SettledCall[]; leave: number | null },
  ): Promise<QuotaReading | null> {
    const settled = calls.flatMap(({ id, tokens, at, isOurs }) => [withinRun(id), tokens, at, isOurs ? 1 : 0])
    const answer = await replyTo(
      this.#connection.commands.quotaSettleBuffer(...this.#aim(tenantId), runField(runId), leave ?? 0, ...settled),
    )
    return isUnseeded(outcomeOf(answer)) ? null : readingOf(figuresOf(answer))
  }

  async doubt(tenantId: TenantId): Promise<void> {
    await replyTo(this.#connection.commands.quotaDoubt(...this.#aim(tenantId)))
  }

  async renew(tenantId: TenantId, runs: readonly { runId: string; call: CallId | null }[]): Promise<void> {
    if (runs.length === 0) return
    const renewed = runs.flatMap(({ runId, call }) => [runField(runId), call === null ? '' : withinRun(call)])
    await replyTo(this.#connection.commands.quotaRenew(...this.#aim(tenantId), ...renewed))
  }

  async read(tenantId: TenantId, version: number): Promise<{ outcome: 'read'; quota: QuotaReading } | Unseeded> {
    const answer = await replyTo(this.#connection.commands.quotaReadBuffer(...this.#aim(tenantId), version))
    const outcome = outcomeOf(answer)
    return isUnseeded(outcome) ? unseeded(outcome, answer) : { outcome: 'read', quota: readingOf(figuresOf(answer)) }
  }

  async subscribe(tenantId: TenantId, onChange: () => void): Promise<Unsubscribe> {
    return this.#channels.subscribe(quotaKeys(tenantId).channel, onChange, onChange)
  }

  async count(tenantId: TenantId): Promise<number> {
    return replyTo(this.#connection.commands.exists(quotaKeys(tenantId).counters))
  }

  async erase(tenantId: TenantId): Promise<void> {
    const { counters, channel } = quotaKeys(tenantId)
    await replyTo(this.#connection.commands.del(counters))
    await replyTo(this.#connection.commands.spublish(channel, ''))
  }

  /** The arguments that each script begins with. */
  #aim(tenantId: TenantId): [key: string, channel: string, now: string] {
    const { counters, channel } = quotaKeys(tenantId)
    return [counters, channel, this.#clock ? String(this.#clock()) : '']
  }
}

function runField(runId: string): string {
  return `r:${runId}`
}

/** Empty without a key. A space would end it. */
function sharedField(key: string | null): string {
  return key === null ? '' : `i:${encodeURIComponent(key)}`
}

/** `<turn>/<attempt>`: what the call is called in the field of its run. */
function withinRun(call: CallId): string {
  return call.slice(call.indexOf('/') + 1)
}

function runOf(call: CallId): string {
  return call.slice(0, call.indexOf('/'))
}

/** How the scripts answered; as it came, one word. */
function outcomeOf([outcome]: Answer): string {
  return outcome.toString('latin1')
}

function isUnseeded(outcome: string): outcome is Unseeded['need'] {
  return outcome === 'terms' || outcome === 'counts'
}

function unseeded(need: Unseeded['need'], [, now, counts]: Answer): Unseeded {
  return { outcome: 'unseeded', need, now, mark: counts.readDoubleLE(0) }
}

/** The order is that of the constants in the scripts. */
function encodeTerms({ version, limits, validUntil, day, month }: QuotaTerms): Buffer {
  const { MESSAGES_PER_MINUTE, MESSAGES_PER_DAY, TOKENS_PER_MESSAGE, CONCURRENT_SESSIONS, MONTHLY_TOKENS } = limits
  const ends = Math.min(validUntil ?? never, day.end, month.end)
  const numbers = [
    ...[version, ends, MESSAGES_PER_MINUTE, MESSAGES_PER_DAY, TOKENS_PER_MESSAGE, CONCURRENT_SESSIONS, MONTHLY_TOKENS],
    ...[day.start, day.end, month.start, month.end, validUntil ?? never],
  ]
  const encoded = Buffer.alloc(8 * numbers.length)
  for (const [index, number] of numbers.entries()) encoded.writeDoubleLE(number, 8 * index)
  return encoded
}

function decodeTerms(encoded: Buffer): QuotaTerms {
  const number = (index: number) => encoded.readDoubleLE(8 * index)
  const validUntil = number(11)
  return {
    version: number(0),
    limits: {
      MESSAGES_PER_MINUTE: number(2),
      MESSAGES_PER_DAY: number(3),
      TOKENS_PER_MESSAGE: number(4),
      CONCURRENT_SESSIONS: number(5),
      MONTHLY_TOKENS: number(6),
    },
    validUntil: validUntil === never ? null : validUntil,
    day: { start: number(7), end: number(8) },
    month: { start: number(9), end: number(10) },
  }
}

function figuresOf([, now, counts, terms]: Answer): QuotaFigures {
  if (terms === null) throw new Error('Counters that are sure have terms.')
  const number = (index: number) => counts.readDoubleLE(8 * index)
  return {
    now,
    terms: decodeTerms(terms),
    bucket: number(8),
    window: Array.from({ length: windowBuckets }, (_, index) => number(9 + index)),
    today: number(3),
    spent: number(4),
    reserved: number(5),
    sessions: number(6),
  }
}

/** Messages by their buckets, calls with their runs, and sessions; each list but the last after its length. */
function encodeCounts({ recent, today, spent, calls, sessions }: QuotaCounts): (string | number)[] {
  const buckets = new Map<number, number>()
  for (const time of recent) {
    const bucket = Math.floor(time / bucketSpan)
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1)
  }
  return [
    ...[today, spent, buckets.size, ...[...buckets].flat()],
    ...[calls.length, ...calls.flatMap(({ id, tokens }) => [runField(runOf(id)), withinRun(id), tokens])],
    ...sessions.map(runField),
  ]
}
