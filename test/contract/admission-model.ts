import { expect } from 'vitest'
import { type CallId, type Limits, leaseTtl, type QuotaCounts } from '../../src/domain/admission.ts'
import { newId } from '../../src/domain/ids.ts'
import { type OpenAdmission, runOf, second, Tenant, termsAt } from './admission-world.ts'

/** A model call as Postgres knows it. */
type Call = { id: CallId; bound: number; granted: number; used: number | null }

/** What somebody read from Postgres to seed with, and has not handed in yet. */
type ReadCounts = { mark: number; counts: QuotaCounts; time: number }

/**
 * One tenant with what Postgres and its workers know of it. It says what the counters have to say, in the plainest way: whatever they
 * hold is kept in lists with the time at which it ends.
 */
export class ModelTenant {
  readonly #open: OpenAdmission
  readonly #limits: Limits
  readonly #tenant: Tenant

  // In Postgres.
  readonly #messages: number[] = []
  readonly #ledger: { tokens: number; at: number }[] = []
  readonly #noted: Call[] = []
  readonly #live: string[] = []
  /** Settlements that are on their way. */
  readonly #unsent: { call: Call; at: number }[] = []
  #read: ReadCounts | null = null

  // In the counters.
  #sure = false
  #spent = 0
  #month = 0
  #nextMonthBegun = false
  #sessions: { run: string; reserve: number; until: number }[] = []
  /** Of no tokens are those that were in the ledger when it was read. */
  #held: { id: CallId; tokens: number; until: number }[] = []

  constructor(open: OpenAdmission, limits: Limits) {
    this.#open = open
    this.#limits = limits
    this.#tenant = new Tenant(open)
  }

  /** A message, whose run is stored, or not. */
  async send(reserve: number, isStored: boolean): Promise<void> {
    await this.#seedIfAsked()
    const runId = newId()
    const figures = this.#figures()
    const { MESSAGES_PER_MINUTE, MESSAGES_PER_DAY, CONCURRENT_SESSIONS, MONTHLY_TOKENS } = this.#limits
    const isAllowed =
      figures.minute < MESSAGES_PER_MINUTE &&
      figures.today < MESSAGES_PER_DAY &&
      figures.sessions < CONCURRENT_SESSIONS &&
      figures.spent + figures.reserved + reserve <= MONTHLY_TOKENS
    const decision = await this.#tenant.admit({ runId, reserve })
    expect(decision.outcome).toBe(isAllowed ? 'admitted' : 'refused')
    if (!isAllowed) return
    if (!isStored) return await this.#tenant.release(runId)
    this.#sessions.push({ run: runId, reserve, until: this.#now + leaseTtl })
    this.#messages.push(this.#now)
    this.#live.push(runId)
  }

  /** A run notes a model call, or goes on with the one it has, and holds tokens for it. */
  async hold(which: number, tokens: number, least: number): Promise<void> {
    await this.#seedIfAsked()
    const run = pick(this.#live, which)
    if (run === undefined) return
    const open = this.#noted.find(({ id }) => runOf(id) === run)
    const call: Call = open ?? { id: `${run}/1/${which}`, bound: tokens, granted: 0, used: null }
    const wanted = Math.min(tokens, call.bound)
    const session = this.#sessions.find((each) => each.run === run)
    const held = this.#held.find(({ id }) => id === call.id)
    const { spent, reserved, sessions } = this.#figures()
    const others = reserved - (held?.tokens ?? 0) - (session?.reserve ?? 0)
    const granted = Math.max(held?.tokens ?? 0, Math.min(wanted, this.#limits.MONTHLY_TOKENS - spent - others))
    const outcome = await this.#tenant.hold(run, wanted, { call: call.id, least })
    if (granted < least) return expect(outcome.outcome).toBe('exhausted')
    if (!session && sessions >= this.#limits.CONCURRENT_SESSIONS) return expect(outcome.outcome).toBe('full')
    expect(outcome).toMatchObject({ outcome: 'held', tokens: granted })
    const until = this.#now + leaseTtl
    this.#sessions = [...this.#sessions.filter((each) => each !== session), { run, reserve: 0, until }]
    this.#held = [...this.#held.filter((each) => each !== held), { id: call.id, tokens: granted, until }]
    call.granted = granted
    if (!open) this.#noted.push(call)
    const afterwards = this.#figures()
    // Postgres may know of more than was granted before it was lost.
    if (granted > (held?.tokens ?? 0))
      expect(afterwards.spent + afterwards.reserved).toBeLessThanOrEqual(this.#limits.MONTHLY_TOKENS)
  }

  /** A call ends, having used a part of what it was granted: it is in the ledger. Its settlement follows. */
  use(which: number, part: number): void {
    const call = pick(this.#noted, which)
    if (!call) return
    this.#noted.splice(this.#noted.indexOf(call), 1)
    call.used = Math.floor(call.granted * part)
    this.#ledger.push({ tokens: call.used, at: this.#now })
    this.#unsent.push({ call, at: this.#now })
  }

  /** Settles what was used, once, twice, or never, as who entered it, or as somebody who found it entered. */
  async settle(which: number, times: number, isOurs: boolean): Promise<void> {
    const settlement = pick(this.#unsent, which)
    if (!settlement) return
    this.#unsent.splice(this.#unsent.indexOf(settlement), 1)
    const { call, at } = settlement
    const used = call.used ?? 0
    for (let time = 0; time < times; time++) {
      await this.#tenant.settle(call.id, used, { at, isOurs })
      const held = this.#held.find(({ id }) => id === call.id)
      this.#held = this.#held.filter((each) => each !== held)
      const { month } = termsAt(this.#month)
      if (used === 0 || at < month.start) continue
      const isCounted = held?.tokens === 0
      if (at >= month.end) this.#nextMonthBegun = true
      else if (held && !isCounted && isOurs) this.#spent += used
      else if (!isCounted) this.#sure = false
    }
  }

  /**
   * A run is over, or a worker leaves it for a while, also with a call whose settlement was lost or is on its way, and perhaps when another
   * has claimed it.
   */
  async leave(which: number, isOver: boolean, claim: number): Promise<void> {
    const run = pick(this.#live, which)
    if (run === undefined) return
    if (isOver && !this.#noted.some(({ id }) => runOf(id) === run)) this.#live.splice(this.#live.indexOf(run), 1)
    await this.#tenant.leave(run, claim)
    const isLater = ({ id }: { id: CallId }) => Number(id.split('/')[2]) > claim
    const isTaken = this.#held.some((held) => runOf(held.id) === run && isLater(held) && held.tokens > 0)
    if (!isTaken) this.#sessions = this.#sessions.filter((each) => each.run !== run)
    const isLeft = (held: { id: CallId }) => runOf(held.id) === run && !isLater(held)
    if (this.#held.some((held) => isLeft(held) && held.tokens > 0)) this.#sure = false
    this.#held = this.#held.filter((held) => !isLeft(held))
  }

  /** Somebody corrects the ledger, and takes tokens back. */
  async correct(tokens: number): Promise<void> {
    this.#ledger.push({ tokens: -tokens, at: this.#now })
    await this.#tenant.doubt()
    this.#sure = false
  }

  async renew(): Promise<void> {
    const runs = this.#live.map((runId) => ({ runId, call: this.#noted.find(({ id }) => runOf(id) === runId)?.id ?? null }))
    await this.#tenant.renew(...runs)
    const until = this.#now + leaseTtl
    for (const session of this.#sessions) if (this.#live.includes(session.run)) session.until = until
    for (const held of this.#held) if (runs.some(({ call }) => call === held.id)) held.until = until
  }

  /** All that the counters said is lost. */
  async lose(): Promise<void> {
    await this.#open.admission.erase(this.#tenant.id)
    this.#sure = false
    this.#nextMonthBegun = false
    this.#sessions = []
    this.#held = []
  }

  /** Somebody who was told that counts are needed reads them, and is slow to hand them in. */
  async readForLater(): Promise<void> {
    const { need, mark = 0 } = await this.#tenant.lacks()
    if (need === 'counts') this.#read = { mark, counts: this.#counts(), time: this.#now }
  }

  /** Hands in what was read then. Whether it is taken or not, the ledger is right. */
  async seedLate(): Promise<void> {
    if (!this.#read) return
    const { mark, counts, time } = this.#read
    this.#read = null
    const before = await this.#tenant.lacks()
    await this.#open.other.seed(this.#tenant.id, mark, termsAt(time, this.#limits), counts)
    const isCurrent = before.mark === mark && this.#now < termsAt(time).day.end
    if (isCurrent) this.#recount(counts)
  }

  /** Time has passed: what was not renewed ends. */
  pass(): void {
    const isLive = ({ until }: { until: number }) => until > this.#now
    if (!this.#held.every((held) => isLive(held) || held.tokens === 0)) this.#sure = false
    this.#held = this.#held.filter(isLive)
    this.#sessions = this.#sessions.filter(isLive)
  }

  /** Whether the counters say what they have to, and the promises that do not depend on the model hold. */
  async check(): Promise<void> {
    await this.#seedIfAsked()
    const { minute, today, sessions, spent, reserved } = await this.#tenant.read()
    expect({ minute, today, sessions, spent, reserved }).toEqual(this.#figures())
    expect(this.#inLedger()).toBeLessThanOrEqual(this.#limits.MONTHLY_TOKENS)
    const perMinute = this.#messages.filter((time) => time > this.#now - 60 * second)
    expect(perMinute.length).toBeLessThanOrEqual(this.#limits.MESSAGES_PER_MINUTE)
    expect(today).toBeLessThanOrEqual(this.#limits.MESSAGES_PER_DAY)
  }

  get #now(): number {
    return this.#open.clock.now
  }

  #figures() {
    const { day } = termsAt(this.#now)
    const window = Math.floor(this.#now / 5_000) - 12
    return {
      minute: this.#messages.filter((time) => Math.floor(time / 5_000) >= window).length,
      today: this.#messages.filter((time) => time >= day.start).length,
      sessions: this.#sessions.length,
      spent: this.#spent,
      reserved: [...this.#sessions.map(({ reserve }) => reserve), ...this.#held.map(({ tokens }) => tokens)].reduce(
        (sum, tokens) => sum + tokens,
        0,
      ),
    }
  }

  #inLedger(): number {
    const { month } = termsAt(this.#now)
    return this.#ledger.filter(({ at }) => at >= month.start).reduce((sum, { tokens }) => sum + tokens, 0)
  }

  #counts(): QuotaCounts {
    const { minute, today } = this.#figures()
    const calls = this.#noted.map(({ id, bound }) => ({ id, tokens: bound }))
    return {
      recent: this.#messages.slice(-minute || this.#messages.length),
      today,
      spent: this.#inLedger(),
      calls,
      sessions: [...this.#live],
    }
  }

  async #seedIfAsked(): Promise<void> {
    const { day, month } = termsAt(this.#now)
    for (let asked = 0; asked < 3; asked++) {
      const { need, mark = 0 } = await this.#tenant.lacks()
      if (need === undefined) return
      const isNewMonth = month.start >= termsAt(this.#month).month.end
      if (this.#sure) expect(need).toBe('terms')
      else expect(need).toBe('counts')
      const counts = need === 'counts' ? this.#counts() : null
      await this.#open.admission.seed(this.#tenant.id, mark, { ...termsAt(this.#now, this.#limits), day, month }, counts)
      if (counts) this.#recount(counts)
      else if (isNewMonth) {
        if (this.#nextMonthBegun) this.#sure = false
        this.#spent = 0
        this.#nextMonthBegun = false
      }
      this.#month = this.#now
    }
    throw new Error('The counters are not content with what they asked for.')
  }

  #recount({ spent, calls, sessions }: QuotaCounts): void {
    const until = this.#now + leaseTtl
    if (termsAt(this.#now).month.start >= termsAt(this.#month).month.end) this.#nextMonthBegun = false
    this.#month = this.#now
    this.#sure = true
    this.#spent = spent
    const entered = this.#held.filter(({ id }) => calls.every((call) => call.id !== id))
    const noted = calls.map(({ id, tokens }) => this.#held.find((each) => each.id === id) ?? { id, tokens, until })
    this.#held = [...noted, ...entered.map((held) => ({ ...held, tokens: 0 }))]
    for (const run of sessions) {
      if (!this.#sessions.some((each) => each.run === run)) this.#sessions.push({ run, reserve: 0, until })
    }
  }
}

function pick<T>(list: readonly T[], which: number): T | undefined {
  return list[which % Math.max(1, list.length)]
}
