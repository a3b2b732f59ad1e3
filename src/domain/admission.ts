import type { QuotaLimit } from '../data/generated/enums.ts'
import type { TenantId } from './ids.ts'
import type { Unsubscribe } from './ports.ts'

/** The most of each thing, whole numbers from 1. MONTHLY_TOKENS is the budget. */
export type Limits = Readonly<Record<QuotaLimit, number>>

/** From `start` on, until just before `end`. Milliseconds since the epoch. */
export type Period = { start: number; end: number }

/** What the counters of a tenant count against. */
export type QuotaTerms = {
  /** The tenant's `limits_version` when these were read. Older terms never replace newer ones. */
  version: number
  limits: Limits
  /** Until when the limits hold, since an override of them ends then; null for always. Milliseconds. */
  validUntil: number | null
  /** The day and the month under way, in the tenant's time zone. */
  day: Period
  month: Period
}

/** What Postgres says that counters which were lost, or are in doubt, have to say. */
export type QuotaCounts = {
  /** When the messages of the last `windowSpan` were accepted. Milliseconds. */
  recent: readonly number[]
  /** Messages that were accepted in the day under way. */
  today: number
  /** Tokens that the ledger has for the month under way. */
  spent: number
  /** Model calls that are noted and not in the ledger yet, with the most tokens that each may come to. */
  calls: readonly { id: CallId; tokens: number }[]
  /** Runs that are neither over nor waiting for a person or for budget. */
  sessions: readonly string[]
}

/** Names a model call among all of a tenant: `<run>/<turn>/<attempt>`. */
export type CallId = `${string}/${number}/${number}`

/** A message that wants to be answered. */
export type AdmissionRequest = {
  /** The tenant's `limits_version`, as authentication read it. Terms that are older do not decide. */
  version: number
  /** The id that its run would have. */
  runId: string
  /** What its idempotency key comes to, under which equal calls share one admission; null without a key. */
  key: string | null
  /** Tokens of the message itself. */
  contentTokens: number
  /** Tokens to set aside for the run until its first model call is held. */
  reserve: number
}

export type AdmissionDecision =
  /**
   * Every limit allows it, and it counts. `runId` is the one to use: another call with the same key may have been admitted under
   * its own, and then this one, `repeated`, counts for nothing. So is one for a run that is admitted already.
   */
  | { outcome: 'admitted'; runId: string; repeated: boolean; quota: QuotaReading }
  /** One limit or more do not allow it. Nothing is counted. */
  | { outcome: 'refused'; refusal: QuotaRefusal; quota: QuotaReading }
  | Unseeded

/** `retryAt` is the earliest time at which all limits allow it if nobody competes; null when no time does. */
export type QuotaRefusal = {
  /** Of those that refuse, the one that refuses for the longest; the first of TOKENS_PER_MESSAGE, month, day, minute, sessions if several do. */
  limit: QuotaLimit
  max: number
  remaining: number
  retryAt: number | null
}

/**
 * Nothing is decided: the tenant's terms are missing or outdated, or with `need: 'counts'` its counters too. Read them from
 * Postgres, `seed`, and ask again. `now` is the time of the counters' clock, in milliseconds, and `mark` is to be handed to `seed`.
 */
export type Unseeded = { outcome: 'unseeded'; need: 'terms' | 'counts'; now: number; mark: number }

export type HoldRequest = {
  version: number
  runId: string
  /** The call that tokens are held for. The first hold of a run's first call takes the place of what was set aside for the run. */
  call: CallId
  /** As many as the call should hold in all, input and output, those that it holds already included. From 1. */
  tokens: number
  /** With fewer than this in all, the call cannot go on, and nothing is changed. */
  least: number
}

export type HoldOutcome =
  /** The call holds `tokens` in all: as many as were asked for, or what the budget has, and no fewer than before. */
  | { outcome: 'held'; tokens: number; quota: QuotaReading }
  /** The budget does not have what the call needs at least. What it held before it holds still. */
  | { outcome: 'exhausted'; quota: QuotaReading }
  /** The run has no session, since it waited or its lease ran out, and all sessions are taken. */
  | { outcome: 'full'; quota: QuotaReading }
  | Unseeded

/**
 * A model call as the ledger has it: its tokens, and when it was entered, in milliseconds. Zero for one that used nothing. `isOurs`
 * where whoever settles it entered it: somebody else may have settled it before.
 */
export type SettledCall = { id: CallId; tokens: number; at: number; isOurs: boolean }

/** What a tenant has used of its limits. */
export type QuotaReading = {
  /** By the counters' clock, milliseconds. */
  now: number
  terms: QuotaTerms
  /** Messages in the window that the next message is counted in. */
  minute: number
  /** When the window first allows another message than it does now; `now` while it is empty. Milliseconds. */
  minuteResetAt: number
  today: number
  sessions: number
  /** Tokens in the ledger in the month under way, and tokens that are held or set aside for runs. */
  spent: number
  reserved: number
}

/**
 * Counts what each tenant uses, for all processes together, and decides by it. Counters are disposable: what they said is rebuilt
 * from Postgres by `seed`. Each call is one round trip and changes all or nothing. Every method throws Unavailable, within a second,
 * while the counters cannot be reached.
 */
export type Admission = {
  /** Decides all limits at once. */
  admit(tenantId: TenantId, request: AdmissionRequest): Promise<AdmissionDecision>

  /**
   * Gives the counters what they lack. The terms replace older ones, unless they have ended by now; a day or month that is new begins
   * at zero. The counts replace the counters, unless those were seeded or changed after `mark` was handed out: ask again then, and if
   * need be seed again. Of two counts of messages the higher stays, since Postgres may not know yet of one that was admitted.
   */
  seed(tenantId: TenantId, mark: number, terms: QuotaTerms, counts: QuotaCounts | null): Promise<void>

  /**
   * Takes back an admission whose run was not stored. Does nothing while equal calls that have not taken it back rely on it, nor when
   * it is taken back already, or its session has ended.
   */
  release(tenantId: TenantId, admitted: Pick<AdmissionRequest, 'runId' | 'key'>): Promise<void>

  /** Holds tokens for a model call, and gives its run a session if it has none. Safe to repeat. */
  hold(tenantId: TenantId, request: HoldRequest): Promise<HoldOutcome>

  /**
   * Counts calls that are in the ledger by now, each once, and frees what was held for them. What it cannot tell whether it was
   * counted puts the counters in doubt, as `doubt` does: a call for which nothing is held, or that is not `isOurs`. With `leave`, the run is
   * over or waits, as that claim of it left it: its session is free, and whatever else it holds, unless a later claim holds something by
   * now. Settle each call with it, or before: one that is left held may be in the ledger, so counts are needed again then. Null when nothing
   * can be said before the next `seed`.
   */
  settle(
    tenantId: TenantId,
    settlement: { runId: string; calls: readonly SettledCall[]; leave: number | null },
  ): Promise<QuotaReading | null>

  /**
   * Puts the counters in doubt: the ledger was changed by something else than a call, and is committed. Nothing is decided before they
   * are seeded with counts that were read since. What is held stays held.
   */
  doubt(tenantId: TenantId): Promise<void>

  /** Keeps sessions and what is held in them alive for another `leaseTtl`. Those that are not there are not made. */
  renew(tenantId: TenantId, runs: readonly { runId: string; call: CallId | null }[]): Promise<void>

  /** What is used, for somebody who wants to see it. */
  read(tenantId: TenantId, version: number): Promise<{ outcome: 'read'; quota: QuotaReading } | Unseeded>

  /** Calls `onChange` after each change, and when changes may have been missed. */
  subscribe(tenantId: TenantId, onChange: () => void): Promise<Unsubscribe>

  /** How many of the tenant's keys are held, and forgetting them all. */
  count(tenantId: TenantId): Promise<number>
  erase(tenantId: TenantId): Promise<void>
}

/** The window of MESSAGES_PER_MINUTE: so many buckets of so many milliseconds, all of which count. Any 60 s lie within them. */
export const windowBuckets = 13
export const bucketSpan = 5_000
export const windowSpan = windowBuckets * bucketSpan

/** How long a session, or what is held for a call, lives without being renewed. Milliseconds. */
export const leaseTtl = 60_000

/** When to come back for a session, or for tokens that running answers hold and may give back: a guess. Milliseconds. */
export const retryHint = 5_000

/** How long equal calls under one idempotency key share an admission, in milliseconds. Later ones find its result in Postgres. */
export const sharedAdmissionTtl = 600_000
