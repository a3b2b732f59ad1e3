import type {
  Admission,
  AdmissionDecision,
  AdmissionRequest,
  CallId,
  HoldOutcome,
  HoldRequest,
  QuotaCounts,
  QuotaReading,
  QuotaTerms,
  SettledCall,
  Unseeded,
} from '../domain/admission.ts'
import type { TenantId } from '../domain/ids.ts'
import type { Unsubscribe } from '../domain/ports.ts'
import { MemoryChannels } from './channels.ts'
import { TenantCounters } from './tenant-counters.ts'

type Kept = { counters: TenantCounters; expiry: NodeJS.Timeout }

/** How long the counters of a tenant that does nothing are kept, in milliseconds. By then its day is over, and Postgres is asked anyway. */
const idleTtl = 24 * 60 * 60_000

/** The admission of a single process. Its timers do not keep the process alive. */
export class MemoryAdmission implements Admission {
  readonly #kept = new Map<TenantId, Kept>()
  readonly #channels: MemoryChannels<void>
  readonly #clock: () => number
  #marks = 0

  /** `onError` is given what a subscriber throws. `now` is the clock, in milliseconds since the epoch; default the machine's. */
  constructor(options: { onError: (error: unknown) => void; now?: () => number }) {
    this.#channels = new MemoryChannels(options.onError)
    this.#clock = options.now ?? Date.now
  }

  async admit(tenantId: TenantId, request: AdmissionRequest): Promise<AdmissionDecision> {
    const decision = this.#countersOf(tenantId).admit(request)
    if (decision.outcome === 'admitted' && !decision.repeated) this.#tell(tenantId)
    return decision
  }

  async seed(tenantId: TenantId, mark: number, terms: QuotaTerms, counts: QuotaCounts | null): Promise<void> {
    if (this.#countersOf(tenantId).seed(mark, terms, counts)) this.#tell(tenantId)
  }

  async release(tenantId: TenantId, admitted: Pick<AdmissionRequest, 'runId' | 'key'>): Promise<void> {
    if (this.#kept.has(tenantId) && this.#countersOf(tenantId).release(admitted)) this.#tell(tenantId)
  }

  async hold(tenantId: TenantId, request: HoldRequest): Promise<HoldOutcome> {
    const held = this.#countersOf(tenantId).hold(request)
    if (held.outcome === 'held') this.#tell(tenantId)
    return held
  }

  async settle(
    tenantId: TenantId,
    { runId, calls, leave }: { runId: string; calls: readonly SettledCall[]; leave: number | null },
  ): Promise<QuotaReading | null> {
    // Nobody has a mark of counters that are not there.
    if (!this.#kept.has(tenantId)) return null
    const quota = this.#countersOf(tenantId).settle(runId, calls, leave)
    this.#tell(tenantId)
    return quota
  }

  async doubt(tenantId: TenantId): Promise<void> {
    if (!this.#kept.has(tenantId)) return
    this.#countersOf(tenantId).doubt()
    this.#tell(tenantId)
  }

  async renew(tenantId: TenantId, runs: readonly { runId: string; call: CallId | null }[]): Promise<void> {
    if (this.#kept.has(tenantId)) this.#countersOf(tenantId).renew(runs)
  }

  async read(tenantId: TenantId, version: number): Promise<{ outcome: 'read'; quota: QuotaReading } | Unseeded> {
    return this.#countersOf(tenantId).read(version)
  }

  async subscribe(tenantId: TenantId, onChange: () => void): Promise<Unsubscribe> {
    return this.#channels.subscribe(tenantId, onChange)
  }

  async count(tenantId: TenantId): Promise<number> {
    return this.#kept.has(tenantId) ? 1 : 0
  }

  async erase(tenantId: TenantId): Promise<void> {
    clearTimeout(this.#kept.get(tenantId)?.expiry)
    this.#kept.delete(tenantId)
    this.#tell(tenantId)
  }

  #tell(tenantId: TenantId): void {
    this.#channels.publish(tenantId, undefined)
  }

  /** As they are by now. */
  #countersOf(tenantId: TenantId): TenantCounters {
    const { counters, expiry } = this.#kept.get(tenantId) ?? this.#keep(tenantId)
    expiry.refresh()
    counters.advance(this.#clock())
    return counters
  }

  #keep(tenantId: TenantId): Kept {
    // Marks of counters that were lost are not handed out again.
    this.#marks += 1_000_000_000
    const expiry = setTimeout(() => this.#kept.delete(tenantId), idleTtl).unref()
    const kept = { counters: new TenantCounters(this.#marks), expiry }
    this.#kept.set(tenantId, kept)
    return kept
  }
}
