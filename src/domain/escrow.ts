import { setTimeout as delay } from 'node:timers/promises'
import { type CallId, type HoldOutcome, type QuotaReading, retryHint, type SettledCall, type Unseeded } from './admission.ts'
import { Unavailable } from './errors.ts'
import type { TenantId } from './ids.ts'
import type { Model, Ports } from './ports.ts'
import { type QuotaOwner, seeded } from './quota-terms.ts'

/**
 * Output tokens that are held at a time: the first for every call, so that it costs one round trip; then as many as the budget has
 * for each session, between the least, with which an answer is begun at all, and the most.
 */
const firstSlice = 64
const leastSlice = 16
const mostSlice = 256

/** How often tokens that others hold are asked for before the answer has begun, in milliseconds, and for how long at most. */
const pauseWhileHeld = 500
const patience = retryHint

/** The pause after the counters could not be reached, in milliseconds. */
const pauseWhileAway = 1_000

/** A model call that wants tokens. */
export type EscrowedCall = {
  runId: string
  id: CallId
  model: string
  inputTokens: number
  /** The most output tokens that the agent wants. */
  outputBound: number
  /** Whether the model was called in this claim before: an answer that has begun goes on while the counters cannot be reached. */
  hasBegun: boolean
}

/** How the first hold went. `full` finds no session; `exhausted` finds no budget, which comes anew at `resumeAt`. */
export type Opened = { outcome: 'held' } | { outcome: 'full' } | { outcome: 'exhausted'; resumeAt: number }

/**
 * The tokens that are set aside for one model call. They are held in slices, the next while the last is being used up, and nothing
 * that the model says is let through before it is held. So what a tenant spends never exceeds its budget, and nearly all of the
 * budget can be spent: no call locks up the longest answer it might give. Reasoning that a model hides cannot be counted while it comes,
 * so such a model's call holds its whole output bound.
 */
export class Escrow {
  readonly #owner: QuotaOwner
  readonly #model: Model
  readonly #call: EscrowedCall
  readonly #holdsAll: boolean
  #bound: number
  /** Whether the budget, and not the agent, bounds the output. */
  #isShort = false
  #held = 0
  /** Output tokens that were let through, and the text that they were. */
  #used = 0
  #texts: string[] = []
  #recountAfter = 0
  #slice = firstSlice
  #extending: Promise<void> | null = null
  /** The budget had no more when it was last asked. */
  #isDry = false
  /** The counters could not be asked until now; not again before then. */
  #askAgainAt: number | null = null
  #resumeAt = 0

  constructor(owner: QuotaOwner, model: Model, call: EscrowedCall) {
    this.#owner = owner
    this.#model = model
    this.#call = call
    this.#bound = call.outputBound
    this.#holdsAll = model.hidesReasoning(call.model)
  }

  /** The most output tokens to ask the model for, once it is open. */
  get outputBound(): number {
    return this.#bound
  }

  /** Whether an answer that is as long as `outputBound` is that because of the budget. */
  get isShort(): boolean {
    return this.#isShort
  }

  /** When the budget begins anew, milliseconds. */
  get resumeAt(): number {
    return this.#resumeAt
  }

  /**
   * Holds the input and what the answer begins with, in one round trip. Waits while the counters cannot be reached, and for a few
   * seconds while the budget is only held by others, who may give it back. Throws the signal's reason.
   */
  async open(signal: AbortSignal): Promise<Opened> {
    const { inputTokens, outputBound, hasBegun } = this.#call
    const least = inputTokens + Math.min(leastSlice, outputBound)
    const deadline = performance.now() + patience
    for (;;) {
      signal.throwIfAborted()
      try {
        const held = await this.#hold(inputTokens + (this.#holdsAll ? outputBound : Math.min(firstSlice, outputBound)), least)
        if (held.outcome === 'held') this.#limitTo(held.quota)
        if (held.outcome === 'held' || held.outcome === 'full') return { outcome: held.outcome }
        const { spent, terms } = held.quota
        const isHeldByOthers = spent + least <= terms.limits.MONTHLY_TOKENS
        if (!isHeldByOthers || performance.now() > deadline) return { outcome: 'exhausted', resumeAt: terms.month.end }
        await delay(pauseWhileHeld, undefined, { signal }).catch(() => undefined)
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error
        this.#askAgainAt = performance.now() + pauseWhileAway
        if (hasBegun) return { outcome: 'held' }
        await delay(pauseWhileAway, undefined, { signal }).catch(() => undefined)
      }
    }
  }

  /** As much of what the model wrote as is held, from its beginning: all of it, unless the budget has no more. */
  async cover(text: string): Promise<string> {
    const tokens = Math.max(1, this.#model.countTokens(this.#call.model, text))
    if (this.#fits(tokens) || (await this.#makeRoom(tokens))) {
      this.#use(text, tokens)
      this.#fetchAhead()
      return text
    }
    const covered = this.#cut(text, this.#held - this.#call.inputTokens - this.#used)
    this.#use(covered, this.#model.countTokens(this.#call.model, covered))
    return covered
  }

  /** What is being held at the moment may still come. Resolves when nothing more is asked for. */
  async close(): Promise<void> {
    await this.#extending
  }

  get #isAway(): boolean {
    return this.#askAgainAt !== null
  }

  #fits(tokens: number): boolean {
    return this.#call.inputTokens + this.#used + tokens <= this.#held
  }

  #use(text: string, tokens: number): void {
    this.#used += tokens
    this.#texts.push(text)
  }

  /**
   * Counted piece by piece a text may seem longer than the model was asked for. It is counted as a whole then, and again only once it is
   * much longer, since a model may say far more than it was asked for.
   */
  #recount(tokens: number): void {
    if (this.#used + tokens <= Math.max(this.#bound, this.#recountAfter)) return
    this.#used = this.#model.countTokens(this.#call.model, this.#texts.join(''))
    this.#recountAfter = 2 * this.#used + mostSlice
  }

  /** False when the budget does not have as much. */
  async #makeRoom(tokens: number): Promise<boolean> {
    await this.#extending
    if (this.#fits(tokens)) return true
    this.#recount(tokens)
    if (this.#fits(tokens)) return true
    if (this.#isAway) this.#fetchAhead()
    else await this.#extend(tokens)
    return this.#fits(tokens) || this.#isAway
  }

  /** Asks for the next slice when less than half of one is left, and goes on meanwhile. */
  #fetchAhead(): void {
    if (this.#extending || this.#isDry || this.#fits(this.#slice / 2)) return
    if (this.#askAgainAt !== null && performance.now() < this.#askAgainAt) return
    // What the model was asked for is held: it will not say more, or is asked then.
    if (!this.#isAway && this.#held >= this.#call.inputTokens + this.#bound) return
    this.#extending = this.#extend(0).finally(() => {
      this.#extending = null
    })
  }

  async #extend(tokens: number): Promise<void> {
    const needed = this.#call.inputTokens + this.#used + tokens
    const most = this.#call.inputTokens + this.#bound
    const wanted = needed < most ? Math.min(needed + this.#slice, most) : needed + leastSlice
    try {
      const { outcome } = await this.#hold(wanted, Math.min(wanted, this.#held + 1))
      // Its session ran out and others have it: the answer goes on all the same, and its tokens are held once it is there again.
      this.#askAgainAt = outcome === 'full' ? performance.now() + pauseWhileAway : null
      this.#isDry = outcome === 'exhausted'
    } catch {
      // Whatever it is, an answer that has begun goes on.
      this.#askAgainAt = performance.now() + pauseWhileAway
    }
  }

  async #hold(tokens: number, least: number): Promise<Exclude<HoldOutcome, Unseeded>> {
    const { runId, id } = this.#call
    const held = await seeded<HoldOutcome>(this.#owner, (version) =>
      this.#owner.ports.admission.hold(this.#owner.tenant.id, { version, runId, call: id, tokens, least }),
    )
    const { terms, spent, reserved, sessions } = held.quota
    this.#resumeAt = terms.month.end
    const free = (terms.limits.MONTHLY_TOKENS - spent - reserved) / Math.max(1, 2 * sessions)
    this.#slice = Math.max(leastSlice, Math.min(mostSlice, Math.floor(free)))
    if (held.outcome === 'held') this.#held = Math.max(this.#held, held.tokens)
    return held
  }

  /** The model is asked for no more than a message may have, nor than is left, so that most answers end by themselves. */
  #limitTo({ terms, spent, reserved }: QuotaReading): void {
    const { TOKENS_PER_MESSAGE, MONTHLY_TOKENS } = terms.limits
    const left = MONTHLY_TOKENS - spent - reserved + this.#held - this.#call.inputTokens
    this.#bound = Math.min(this.#call.outputBound, TOKENS_PER_MESSAGE)
    this.#isShort = left < this.#bound
    this.#bound = Math.max(1, Math.min(this.#bound, left))
  }

  /** As much of the text as so many tokens are, without half a character at its end. */
  #cut(text: string, tokens: number): string {
    const characters = [...text]
    let [fits, tooMany] = [0, characters.length]
    while (tooMany - fits > 1) {
      const middle = Math.floor((fits + tooMany) / 2)
      if (this.#model.countTokens(this.#call.model, characters.slice(0, middle).join('')) <= tokens) fits = middle
      else tooMany = middle
    }
    return characters.slice(0, fits).join('')
  }
}

/**
 * Tells the counters of calls that are in the ledger, and with `leave` that the run is over or waits since that claim of it. Null when
 * they cannot be reached: what was held then runs out, and they are counted anew from the ledger.
 */
export async function settle(
  { tenant, ports }: { tenant: { id: TenantId }; ports: Pick<Ports, 'admission'> },
  settlement: { runId: string; calls: readonly SettledCall[]; leave: number | null },
): Promise<QuotaReading | null> {
  if (settlement.calls.length === 0 && settlement.leave === null) return null
  try {
    return await ports.admission.settle(tenant.id, settlement)
  } catch (error) {
    if (error instanceof Unavailable) return null
    throw error
  }
}
