import type { QuotaLimit } from '../data/generated/enums.ts'
import type { QuotaReading, QuotaRefusal } from './admission.ts'

/** Expected failures. The schema turns each into the problem type of the same code; anything else thrown is a bug and is masked. */
export class Problem extends Error {
  readonly code: 'VALIDATION' | 'NOT_FOUND' | 'FORBIDDEN' | 'CONFLICT' | 'QUOTA_EXCEEDED' | 'BUDGET_EXHAUSTED'

  constructor(code: Problem['code'], message: string) {
    super(message)
    this.name = new.target.name
    this.code = code
  }
}

/** The input breaks a rule. `path` names the input field, as in `['content']`. */
export class ValidationProblem extends Problem {
  readonly path: readonly string[]

  constructor(path: readonly string[], message: string) {
    super('VALIDATION', message)
    this.path = path
  }
}

/** There is no such thing here: it does not exist, or it is another tenant's. The two are never told apart. */
export class NotFound extends Problem {
  /** `noun` is what was looked for, as in `'conversation'`; ids are never repeated. */
  constructor(noun: string) {
    super('NOT_FOUND', `There is no such ${noun}.`)
  }
}

/** There are no valid credentials. No problem of the API: whoever has none is told nothing else. */
export class Unauthenticated extends Error {
  constructor() {
    super('Send a valid API key as "Authorization: Bearer <key>"; on sockets, as "authorization" in connectionParams.')
    this.name = 'Unauthenticated'
  }
}

/** The actor is known and may not do this. */
export class Forbidden extends Problem {
  constructor(message = 'Your role does not allow this.') {
    super('FORBIDDEN', message)
  }
}

/** It contradicts what is already there. */
export class Conflict extends Problem {
  constructor(message: string) {
    super('CONFLICT', message)
  }
}

/** A limit of the tenant does not allow it now, or, when `retryAt` is null, ever. Nothing was counted. */
export class LimitReached extends Problem {
  readonly refusal: QuotaRefusal
  /** What was used when it was refused. */
  readonly quota: QuotaReading

  constructor(code: Problem['code'], message: string, refusal: QuotaRefusal, quota: QuotaReading) {
    super(code, message)
    this.refusal = refusal
    this.quota = quota
  }

  /** Seconds, rounded up, after which the same call succeeds if nobody competes; null when it never does. */
  get retryAfterSeconds(): number | null {
    const { retryAt } = this.refusal
    return retryAt === null ? null : Math.max(1, Math.ceil((retryAt - this.quota.now) / 1_000))
  }
}

/** A limit on messages or sessions does not allow it. */
export class QuotaExceeded extends LimitReached {
  constructor(refusal: QuotaRefusal, quota: QuotaReading) {
    super('QUOTA_EXCEEDED', refusals[refusal.limit](refusal.max), refusal, quota)
  }
}

/** The month's tokens do not allow it. */
export class BudgetExhausted extends LimitReached {
  constructor(refusal: QuotaRefusal, quota: QuotaReading) {
    super('BUDGET_EXHAUSTED', refusals[refusal.limit](refusal.max), refusal, quota)
  }
}

const refusals: Record<QuotaLimit, (max: number) => string> = {
  MESSAGES_PER_MINUTE: (max) => `Your organisation has sent as many messages as it may in a minute: ${count(max)}.`,
  MESSAGES_PER_DAY: (max) => `Your organisation has sent as many messages as it may in a day: ${count(max)}.`,
  TOKENS_PER_MESSAGE: (max) => `The message is longer than the ${count(max)} tokens that one may have.`,
  CONCURRENT_SESSIONS: (max) => `Your organisation has as many answers under way as it may at a time: ${count(max)}.`,
  MONTHLY_TOKENS: (max) =>
    `The ${count(max)} tokens of your organisation for this month are used up, or held for answers under way.`,
}

function count(number: number): string {
  return number.toLocaleString('en')
}

/** Something this needs cannot be reached now. Not a problem of the request: the same request may succeed later. */
export class Unavailable extends Error {
  readonly retryAfterSeconds: number

  constructor(message: string, retryAfterSeconds: number, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'Unavailable'
    this.retryAfterSeconds = retryAfterSeconds
  }
}
