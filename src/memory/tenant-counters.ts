import {
  type AdmissionDecision,
  type AdmissionRequest,
  bucketSpan,
  type CallId,
  type HoldOutcome,
  type HoldRequest,
  leaseTtl,
  type QuotaCounts,
  type QuotaReading,
  type QuotaTerms,
  type SettledCall,
  sharedAdmissionTtl,
  type Unseeded,
  windowBuckets,
} from '../domain/admission.ts'
import { type QuotaFigures, readingOf, refusalOf } from '../domain/quota-figures.ts'

/** What is counted for a run that has a session, or for which a model call is held. */
type Run = {
  /** When its session ends; 0 without one. */
  leaseUntil: number
  /** When its message was counted here; 0 when it was not. */
  admittedAt: number
  /** Set aside until its first call is held. */
  reserve: number
  /** One of no tokens was in the ledger when the counts were read: its settlement is on its way, and is not to count it again. */
  calls: Map<CallId, { tokens: number; until: number }>
}

/** An admission that equal calls share, so many by now. */
type SharedAdmission = { runId: string; until: number; calls: number }

/** The counters of one tenant. Whoever calls a method has called `advance` first. */
export class TenantCounters {
  /** Changes whenever counts that were read from Postgres before may be wrong by now. */
  #mark: number
  #now = 0
  #terms: QuotaTerms | null = null
  /** Whether the counters are sure: seeded, and not in doubt since. */
  #sure = false
  /** Whether a call is in the ledger of the next month already. */
  #nextMonthBegun = false
  #bucket = 0
  #window: number[] = emptyWindow()
  #today = 0
  #spent = 0
  readonly #runs = new Map<string, Run>()
  readonly #shared = new Map<string, SharedAdmission>()

  constructor(mark: number) {
    this.#mark = mark
  }

  /** Goes on to `now`: what has ended by then is dropped. A held call that ended may have been made, which puts counters in doubt. */
  advance(now: number): void {
    this.#now = now
    const passed = Math.floor(now / bucketSpan) - this.#bucket
    if (passed > 0) {
      this.#window = [...this.#window.slice(passed), ...emptyWindow()].slice(0, windowBuckets)
      this.#bucket += passed
    }
    for (const [runId, run] of this.#runs) {
      if (run.leaseUntil <= now) Object.assign(run, { leaseUntil: 0, reserve: 0 })
      for (const [id, { tokens, until }] of run.calls) {
        if (until > now) continue
        run.calls.delete(id)
        if (tokens > 0) this.#sure = false
      }
      this.#forgetIfEmpty(runId, run)
    }
    for (const [key, { until }] of this.#shared) if (until <= now) this.#shared.delete(key)
  }

  admit({ version, runId, key, contentTokens, reserve }: AdmissionRequest): AdmissionDecision {
    const terms = this.#termsFor(version)
    if ('outcome' in terms) return terms
    const shared = key === null ? undefined : this.#shared.get(key)
    if (shared) shared.calls++
    if (shared || (this.#runs.get(runId)?.leaseUntil ?? 0) > 0) {
      return { outcome: 'admitted', runId: shared?.runId ?? runId, repeated: true, quota: this.#reading(terms) }
    }
    const refusal = refusalOf(this.#figures(terms), { contentTokens, reserve })
    if (refusal) return { outcome: 'refused', refusal, quota: this.#reading(terms) }

    const now = this.#now
    this.#count(this.#bucket, 1)
    this.#today++
    Object.assign(this.#run(runId), { leaseUntil: now + leaseTtl, admittedAt: now, reserve })
    if (key !== null) this.#shared.set(key, { runId, until: now + sharedAdmissionTtl, calls: 1 })
    return { outcome: 'admitted', runId, repeated: false, quota: this.#reading(terms) }
  }

  /** Whether anything changed. */
  seed(mark: number, terms: QuotaTerms, counts: QuotaCounts | null): boolean {
    if (counts && mark !== this.#mark) return false
    if (!this.#take(terms)) return false
    if (counts) this.#recount(counts)
    return true
  }

  /** Whether anything changed. */
  release({ runId, key }: Pick<AdmissionRequest, 'runId' | 'key'>): boolean {
    if (key !== null && !this.#leave(runId, key)) return false
    const run = this.#runs.get(runId)
    if (!run || run.admittedAt === 0 || run.calls.size > 0) return false
    this.#runs.delete(runId)
    this.#count(Math.floor(run.admittedAt / bucketSpan), -1)
    if (this.#terms && run.admittedAt >= this.#terms.day.start) this.#today = Math.max(0, this.#today - 1)
    return true
  }

  hold({ version, runId, call, tokens, least }: HoldRequest): HoldOutcome {
    const terms = this.#termsFor(version)
    if ('outcome' in terms) return terms
    const { limits } = terms
    const { spent, reserved, sessions } = this.#figures(terms)
    const run = this.#runs.get(runId)
    const held = run?.calls.get(call)?.tokens ?? 0
    const others = reserved - held - (run?.reserve ?? 0)
    const granted = Math.max(held, Math.min(tokens, limits.MONTHLY_TOKENS - spent - others))
    if (granted < least) return { outcome: 'exhausted', quota: this.#reading(terms) }
    if (!run?.leaseUntil && sessions >= limits.CONCURRENT_SESSIONS) return { outcome: 'full', quota: this.#reading(terms) }

    const until = this.#now + leaseTtl
    const holder = Object.assign(this.#run(runId), { leaseUntil: until, reserve: 0 })
    holder.calls.set(call, { tokens: granted, until })
    return { outcome: 'held', tokens: granted, quota: this.#reading(terms) }
  }

  settle(runId: string, calls: readonly SettledCall[], leave: number | null): QuotaReading | null {
    this.#mark++
    const run = this.#runs.get(runId)
    for (const { id, tokens, at, isOurs } of calls) {
      const known = run?.calls.get(id)
      run?.calls.delete(id)
      if (tokens === 0 || !this.#terms) continue
      const { start, end } = this.#terms.month
      const isHeld = known !== undefined && known.tokens > 0
      if (at >= end) this.#nextMonthBegun = true
      else if (at < start) continue
      else if (isHeld && isOurs) this.#spent += tokens
      // Whether it was counted is not known here.
      else if (isHeld || !known) this.#sure = false
    }
    if (run && leave !== null) this.#leaveRun(run, leave)
    if (run) this.#forgetIfEmpty(runId, run)
    const terms = this.#termsFor(0)
    return 'outcome' in terms ? null : this.#reading(terms)
  }

  doubt(): void {
    this.#mark++
    this.#sure = false
  }

  renew(runs: readonly { runId: string; call: CallId | null }[]): void {
    const until = this.#now + leaseTtl
    for (const { runId, call } of runs) {
      const run = this.#runs.get(runId)
      if (run?.leaseUntil) run.leaseUntil = until
      const held = call === null ? undefined : run?.calls.get(call)
      if (held) held.until = until
    }
  }

  read(version: number): { outcome: 'read'; quota: QuotaReading } | Unseeded {
    const terms = this.#termsFor(version)
    return 'outcome' in terms ? terms : { outcome: 'read', quota: this.#reading(terms) }
  }

  /** What to decide by, no older than this version; or what has to be seeded first. */
  #termsFor(version: number): QuotaTerms | Unseeded {
    const unseeded = (need: Unseeded['need']): Unseeded => ({ outcome: 'unseeded', need, now: this.#now, mark: this.#mark })
    if (!this.#sure || !this.#terms) return unseeded('counts')
    return this.#terms.version < version || this.#now >= endOf(this.#terms) ? unseeded('terms') : this.#terms
  }

  /** False when these terms are older than those that are there, or have ended: then nothing is changed. */
  #take(terms: QuotaTerms): boolean {
    const old = this.#terms
    if (this.#now >= endOf(terms) || (old && terms.version < old.version)) return false
    this.#terms = structuredClone(terms)
    if (!old) return true
    if (terms.month.start >= old.month.end) {
      this.#spent = 0
      if (this.#nextMonthBegun) this.#sure = false
      this.#nextMonthBegun = false
    } else if (!isSame(terms.month, old.month)) this.#sure = false
    if (!isSame(terms.day, old.day)) {
      this.#today = 0
      if (terms.day.start < old.day.end) this.#sure = false
    }
    return true
  }

  #recount({ recent, today, spent, calls, sessions }: QuotaCounts): void {
    this.#mark++
    this.#sure = true
    this.#spent = spent
    // Counters that are only in doubt know of messages whose transactions Postgres had not seen the end of.
    this.#today = Math.max(this.#today, today)
    const window = emptyWindow()
    for (const time of recent) {
      const index = this.#indexOf(Math.floor(time / bucketSpan))
      if (index >= 0) window[index] = (window[index] ?? 0) + 1
    }
    if (total(window) > total(this.#window)) this.#window = window

    const until = this.#now + leaseTtl
    const unfinished = new Map(calls.map(({ id, tokens }) => [id, tokens]))
    for (const [runId, run] of this.#runs) {
      for (const [id, call] of run.calls) if (!unfinished.has(id)) call.tokens = 0
      this.#forgetIfEmpty(runId, run)
    }
    for (const [id, tokens] of unfinished) {
      const run = this.#run(runOf(id))
      if (!run.calls.has(id)) run.calls.set(id, { tokens, until })
    }
    for (const runId of sessions) {
      const run = this.#run(runId)
      if (run.leaseUntil === 0) run.leaseUntil = until
    }
  }

  #figures(terms: QuotaTerms): QuotaFigures {
    const runs = [...this.#runs.values()]
    const held = runs.flatMap(({ reserve, calls }) => [reserve, ...[...calls.values()].map(({ tokens }) => tokens)])
    return {
      ...{ now: this.#now, terms, bucket: this.#bucket, window: this.#window, today: this.#today, spent: this.#spent },
      ...{ sessions: runs.filter(({ leaseUntil }) => leaseUntil > 0).length, reserved: total(held) },
    }
  }

  #reading(terms: QuotaTerms): QuotaReading {
    return readingOf(this.#figures(terms))
  }

  #run(runId: string): Run {
    const run = this.#runs.get(runId) ?? { leaseUntil: 0, admittedAt: 0, reserve: 0, calls: new Map() }
    this.#runs.set(runId, run)
    return run
  }

  /** Frees what claims of the run up to this one hold, and its session unless a later one is at it. */
  #leaveRun(run: Run, claim: number): void {
    let isTaken = false
    for (const [id, { tokens }] of run.calls) {
      if (claimOf(id) > claim) {
        isTaken ||= tokens > 0
        continue
      }
      run.calls.delete(id)
      // What became of a call that nobody settled is not known here.
      if (tokens > 0) this.#sure = false
    }
    if (!isTaken) Object.assign(run, { leaseUntil: 0, reserve: 0 })
  }

  #forgetIfEmpty(runId: string, { leaseUntil, calls }: Run): void {
    if (leaseUntil === 0 && calls.size === 0) this.#runs.delete(runId)
  }

  /** Whether the admission is the run's and no other call relies on it any more. */
  #leave(runId: string, key: string): boolean {
    const shared = this.#shared.get(key)
    if (shared?.runId !== runId || --shared.calls > 0) return false
    this.#shared.delete(key)
    return true
  }

  #count(bucket: number, messages: number): void {
    const index = this.#indexOf(bucket)
    if (index >= 0) this.#window[index] = Math.max(0, (this.#window[index] ?? 0) + messages)
  }

  /** Where the bucket is in the window; below 0 when it has left it. The clocks of others may be ahead. */
  #indexOf(bucket: number): number {
    return windowBuckets - 1 - Math.max(0, this.#bucket - bucket)
  }
}

function emptyWindow(): number[] {
  return Array<number>(windowBuckets).fill(0)
}

/** When these terms must be read again. */
function endOf({ validUntil, day, month }: QuotaTerms): number {
  return Math.min(validUntil ?? Number.POSITIVE_INFINITY, day.end, month.end)
}

function isSame(one: { start: number; end: number }, other: { start: number; end: number }): boolean {
  return one.start === other.start && one.end === other.end
}

function runOf(call: CallId): string {
  return call.slice(0, call.indexOf('/'))
}

function claimOf(call: CallId): number {
  return Number(call.slice(call.lastIndexOf('/') + 1))
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}
