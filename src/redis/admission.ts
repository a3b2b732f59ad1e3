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
} from '../domain/admission.ts'
import type { TenantId } from '../domain/ids.ts'
import type { Unsubscribe } from '../domain/ports.ts'
import { type QuotaFigures, readingOf, refusalOf } from '../domain/quota-figures.ts'
import { admissionScripts } from './admission-scripts.ts'
import { RedisChannels } from './channels.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { quotaKeys } from './key-space.ts'

type Answer<Outcome extends string, Detail = null> = [
  outcome: Outcome | Unseeded['need'],
  now: number,
  counts: string,
  terms: string | null,
  detail: Detail,
]

type Script<Context extends ClientContext, Answered> = (
  key: string,
  channel: string,
  now: string,
  ...args: (string | number)[]
) => Result<Answered, Context>

declare module 'ioredis' {
  interface RedisCommander<Context> {
    quotaAdmit: Script<Context, Answer<'admitted' | 'repeated' | 'refused', string>>
    quotaSeed: Script<Context, unknown>
    quotaRelease: Script<Context, unknown>
    quotaHold: Script<Context, Answer<'held' | 'exhausted' | 'full', number>>
    quotaSettle: Script<Context, Answer<'read'>>
    quotaRenew: Script<Context, unknown>
    quotaRead: Script<Context, Answer<'read'>>
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
    const [outcome, now, counts, terms, admitted] = await replyTo(
      this.#connection.commands.quotaAdmit(
        ...this.#aim(tenantId),
        ...[version, contentTokens, reserve, runField(runId), sharedField(key)],
      ),
    )
    if (outcome === 'terms' || outcome === 'counts') return unseeded(outcome, now, counts)
    const figures = figuresOf(now, counts, terms)
    const quota = readingOf(figures)
    if (outcome !== 'refused') return { outcome: 'admitted', runId: admitted, repeated: outcome === 'repeated', quota }
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
    const [outcome, now, counts, terms, held] = await replyTo(
      this.#connection.commands.quotaHold(...this.#aim(tenantId), ...[version, runField(runId), withinRun(call), tokens, least]),
    )
    if (outcome === 'terms' || outcome === 'counts') return unseeded(outcome, now, counts)
    const quota = readingOf(figuresOf(now, counts, terms))
    return outcome === 'held' ? { outcome, tokens: held, quota } : { outcome, quota }
  }

  async settle(
    tenantId: TenantId,
    { runId, calls, leave }: { runId: string; calls: readonly SettledCall[]; leave: boolean },
  ): Promise<QuotaReading | null> {
    const settled = calls.flatMap(({ id, tokens, at }) => [withinRun(id), tokens, at])
    const [outcome, now, counts, terms] = await replyTo(
      this.#connection.commands.quotaSettle(...this.#aim(tenantId), runField(runId), leave ? 1 : 0, ...settled),
    )
    return outcome === 'read' ? readingOf(figuresOf(now, counts, terms)) : null
  }

  async renew(tenantId: TenantId, runs: readonly { runId: string; call: CallId | null }[]): Promise<void> {
    if (runs.length === 0) return
    const renewed = runs.flatMap(({ runId, call }) => [runField(runId), call === null ? '' : withinRun(call)])
    await replyTo(this.#connection.commands.quotaRenew(...this.#aim(tenantId), ...renewed))
  }

  async read(tenantId: TenantId, version: number): Promise<{ outcome: 'read'; quota: QuotaReading } | Unseeded> {
    const [outcome, now, counts, terms] = await replyTo(this.#connection.commands.quotaRead(...this.#aim(tenantId), version))
    return outcome === 'read' ? { outcome, quota: readingOf(figuresOf(now, counts, terms)) } : unseeded(outcome, now, counts)
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

function unseeded(need: Unseeded['need'], now: number, counts: string): Unseeded {
  return { outcome: 'unseeded', need, now, mark: Number.parseInt(counts, 10) }
}

/** The order is that of the constants in the scripts. */
function encodeTerms({ version, limits, validUntil, day, month }: QuotaTerms): string {
  const { MESSAGES_PER_MINUTE, MESSAGES_PER_DAY, TOKENS_PER_MESSAGE, CONCURRENT_SESSIONS, MONTHLY_TOKENS } = limits
  const ends = Math.min(validUntil ?? never, day.end, month.end)
  return [
    ...[version, ends, MESSAGES_PER_MINUTE, MESSAGES_PER_DAY, TOKENS_PER_MESSAGE, CONCURRENT_SESSIONS, MONTHLY_TOKENS],
    ...[day.start, day.end, month.start, month.end, validUntil ?? never],
  ].join(' ')
}

function decodeTerms(text: string): QuotaTerms {
  const [version = 0, , perMinute = 0, perDay = 0, perMessage = 0, sessions = 0, budget = 0, ...times] = numbersIn(text)
  const [dayStart = 0, dayEnd = 0, monthStart = 0, monthEnd = 0, validUntil = never] = times
  return {
    version,
    limits: {
      MESSAGES_PER_MINUTE: perMinute,
      MESSAGES_PER_DAY: perDay,
      TOKENS_PER_MESSAGE: perMessage,
      CONCURRENT_SESSIONS: sessions,
      MONTHLY_TOKENS: budget,
    },
    validUntil: validUntil === never ? null : validUntil,
    day: { start: dayStart, end: dayEnd },
    month: { start: monthStart, end: monthEnd },
  }
}

function figuresOf(now: number, counts: string, terms: string | null): QuotaFigures {
  if (terms === null) throw new Error('Counters that are sure have terms.')
  const [, , , today = 0, spent = 0, reserved = 0, sessions = 0, , bucket = 0, ...window] = numbersIn(counts)
  return { now, terms: decodeTerms(terms), bucket, window, today, sessions, spent, reserved }
}

function numbersIn(text: string): number[] {
  return text.split(' ').map(Number)
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
