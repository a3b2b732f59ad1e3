import { beforeAll, describe } from 'vitest'
import type {
  Admission,
  AdmissionDecision,
  CallId,
  HoldOutcome,
  Limits,
  QuotaCounts,
  QuotaReading,
  QuotaTerms,
  Unseeded,
} from '../../src/domain/admission.ts'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { RedisAdmission } from '../../src/redis/admission.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisDeployment, redisDeployments } from '../support/redis-deployments.ts'

export const second = 1_000
export const minute = 60 * second
export const hour = 60 * minute
export const day = 24 * hour

/** In the middle of a day, of a month, and of a bucket of the window. */
export const noon = Date.UTC(2026, 0, 15, 12) + 1_234

/** A clock that stands still until it is moved. */
export type Clock = { now: number }

export type OpenAdmission = {
  admission: Admission
  /** The same counters as another process sees them; in memory it is the same object. */
  other: Admission
  clock: Clock
  errors: unknown[]
}

let redis: RedisDeployment
const patient = { commandTimeout: 10_000 }

async function inMemory(): Promise<OpenAdmission> {
  const clock = { now: noon }
  const errors: unknown[] = []
  const admission = new MemoryAdmission({ onError: (error) => errors.push(error), now: () => clock.now })
  return { admission, other: admission, clock, errors }
}

async function onRedis(): Promise<OpenAdmission> {
  const clock = { now: noon }
  // Patient, since what is tried here is not how soon an overloaded machine answers.
  const [one, two] = [await connectForTest(redis.target, patient), await connectForTest(redis.target, patient)]
  const [admission, other] = [one, two].map(({ connection }) => new RedisAdmission(connection, { now: () => clock.now }))
  if (!admission || !other) throw new Error('There are two.')
  return { admission, other, clock, errors: two.errors }
}

/** Describes what every implementation keeps. Each `open` is at noon, and knows no tenant. */
export function describeAdmission(name: string, define: (open: () => Promise<OpenAdmission>) => void): void {
  describe.each([
    { where: 'in memory', open: inMemory, available: true, start: async () => undefined },
    ...redisDeployments.map(({ name: where, start, available }) => ({
      ...{ where, available, open: onRedis },
      start: async () => {
        redis = await start()
        return () => redis.stop()
      },
    })),
  ])(`${name} $where`, ({ open, available, start }) => {
    describe.skipIf(!available)('keeps the contract:', () => {
      beforeAll(start, 60_000)
      define(open)
    })
  })
}

export const roomy: Limits = {
  MESSAGES_PER_MINUTE: 1_000,
  MESSAGES_PER_DAY: 10_000,
  TOKENS_PER_MESSAGE: 1_000,
  CONCURRENT_SESSIONS: 100,
  MONTHLY_TOKENS: 1_000_000,
}

export const nothing: QuotaCounts = { recent: [], today: 0, spent: 0, calls: [], sessions: [] }

/** Terms in UTC for the day and the month that `time` is in. */
export function termsAt(time: number, limits: Partial<Limits> = {}, others: Partial<QuotaTerms> = {}): QuotaTerms {
  const date = new Date(time)
  const [year, month, dayOfMonth] = [date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate()]
  return {
    version: 1,
    limits: { ...roomy, ...limits },
    validUntil: null,
    day: { start: Date.UTC(year, month, dayOfMonth), end: Date.UTC(year, month, dayOfMonth + 1) },
    month: { start: Date.UTC(year, month), end: Date.UTC(year, month + 1) },
    ...others,
  }
}

/** A tenant whose counters are seeded, and short ways to ask about it. Ids are made up as they are needed. */
export class Tenant {
  readonly id: TenantId = tenantIdOf(newId())
  readonly #open: OpenAdmission

  constructor(open: OpenAdmission) {
    this.#open = open
  }

  static async seeded(open: OpenAdmission, limits: Partial<Limits> = {}, counts: Partial<QuotaCounts> = {}): Promise<Tenant> {
    const tenant = new Tenant(open)
    await tenant.seed(termsAt(open.clock.now, limits), { ...nothing, ...counts })
    return tenant
  }

  /** Gives the counters these, as an answer that they are unseeded asks for. */
  async seed(terms: QuotaTerms, counts: QuotaCounts | null): Promise<void> {
    const { mark = -1 } = await this.lacks(terms.version)
    await this.#open.admission.seed(this.id, mark, terms, counts)
  }

  admit(request: { runId?: string; key?: string; contentTokens?: number; reserve?: number; version?: number } = {}) {
    const { runId = newId(), key = null, contentTokens = 1, reserve = 0, version = 1 } = request
    return this.#open.admission.admit(this.id, { version, runId, key, contentTokens, reserve })
  }

  /** The id of a run that is admitted; throws when it is not. */
  async admitted(request: { key?: string; reserve?: number } = {}): Promise<string> {
    return expectAdmitted(await this.admit(request)).runId
  }

  hold(runId: string, tokens: number, options: { call?: CallId; least?: number; version?: number } = {}): Promise<HoldOutcome> {
    const { call = `${runId}/1/1`, least = 1, version = 1 } = options
    return this.#open.admission.hold(this.id, { version, runId, call, tokens, least })
  }

  settle(
    call: CallId,
    tokens: number,
    options: { at?: number; leave?: number | null; isOurs?: boolean } = {},
  ): Promise<QuotaReading | null> {
    const { at = this.#open.clock.now, leave = null, isOurs = true } = options
    return this.#open.admission.settle(this.id, { runId: runOf(call), calls: [{ id: call, tokens, at, isOurs }], leave })
  }

  /** As the claim, by default as the last that there is. */
  leave(runId: string, claim = 1_000): Promise<QuotaReading | null> {
    return this.#open.admission.settle(this.id, { runId, calls: [], leave: claim })
  }

  doubt(): Promise<void> {
    return this.#open.admission.doubt(this.id)
  }

  release(runId: string, key: string | null = null): Promise<void> {
    return this.#open.admission.release(this.id, { runId, key })
  }

  renew(...runs: { runId: string; call: CallId | null }[]): Promise<void> {
    return this.#open.admission.renew(this.id, runs)
  }

  /** What another process reads. Throws when that is nothing. */
  async read(version = 1): Promise<QuotaReading> {
    const read = await this.#open.other.read(this.id, version)
    if (read.outcome === 'unseeded') throw new Error(`It lacks ${read.need}.`)
    return read.quota
  }

  /** What the counters say they lack. */
  async lacks(version = 1): Promise<Partial<Unseeded>> {
    const read = await this.#open.other.read(this.id, version)
    return read.outcome === 'unseeded' ? read : {}
  }
}

export function expectAdmitted(decision: AdmissionDecision): AdmissionDecision & { outcome: 'admitted' } {
  if (decision.outcome === 'admitted') return decision
  throw new Error(`Not admitted: ${JSON.stringify(decision)}`)
}

export function runOf(call: CallId): string {
  return call.slice(0, call.indexOf('/'))
}
