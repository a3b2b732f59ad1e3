import { backlogAfter, defaultEventLogLimits, type EventLogLimits, erasedMark, numberEvents } from '../domain/event-log.ts'
import type { TenantId } from '../domain/ids.ts'
import type { AppendOutcome, Backlog, EventLog, RunRef, Unsubscribe } from '../domain/ports.ts'
import { type Cursor, compareCursors, isTerminal, type LoggedEvent, origin, type RunEvent } from '../domain/run-event.ts'
import { MemoryChannels } from './channels.ts'

type RunLog = { entries: LoggedEvent[]; expiry: NodeJS.Timeout }

/** The event log of a single process. Its timers do not keep the process alive. */
export class MemoryEventLog implements EventLog {
  readonly #logs = new Map<string, RunLog>()
  readonly #channels: MemoryChannels<LoggedEvent[]>
  readonly #limits: EventLogLimits

  /** `onError` is given what a subscriber throws. */
  constructor(options: { onError: (error: unknown) => void; limits?: EventLogLimits }) {
    this.#channels = new MemoryChannels(options.onError)
    this.#limits = options.limits ?? defaultEventLogLimits
  }

  async append(run: RunRef, epoch: number, firstSeq: number, events: RunEvent[]): Promise<AppendOutcome> {
    const key = keyOf(run)
    const last = this.#logs.get(key)?.entries.at(-1)?.cursor ?? origin
    if (epoch < last.epoch) return { outcome: 'fenced', last }
    const known = epoch === last.epoch ? last.seq : 0
    if (firstSeq > known + 1) return { outcome: 'gap', last }
    const added = numberEvents(epoch, known + 1, events.slice(known + 1 - firstSeq))
    if (added.length === 0) return { outcome: 'duplicate', last }

    this.#extend(key, added)
    this.#channels.publish(key, added)
    return { outcome: 'appended' }
  }

  async read(run: RunRef, after: Cursor | null): Promise<Backlog> {
    const from = after ?? origin
    const entries = this.#logs.get(keyOf(run))?.entries ?? []
    return backlogAfter(
      from,
      entries.filter(({ cursor }) => compareCursors(cursor, from) >= 0),
    )
  }

  async subscribe(run: RunRef, onEvents: (events: LoggedEvent[]) => void): Promise<Unsubscribe> {
    return this.#channels.subscribe(keyOf(run), onEvents)
  }

  async count(tenantId: TenantId): Promise<number> {
    return this.#keysOf(tenantId).filter((key) => this.#logs.get(key)?.entries.at(-1) !== erasedMark).length
  }

  async erase(tenantId: TenantId, openRuns: readonly string[]): Promise<void> {
    const open = openRuns.map((runId) => keyOf({ tenantId, runId }))
    for (const key of new Set([...this.#keysOf(tenantId), ...open])) {
      const log = this.#logs.get(key)
      if (log?.entries.at(-1) === erasedMark) continue
      clearTimeout(log?.expiry)
      this.#keep(key, [erasedMark], this.#limits.liveTtl)
      this.#channels.publish(key, [erasedMark])
    }
  }

  #keysOf(tenantId: TenantId): string[] {
    return [...this.#logs.keys()].filter((key) => key.startsWith(keyOf({ tenantId, runId: '' })))
  }

  #extend(key: string, added: LoggedEvent[]): void {
    const held = this.#logs.get(key)
    const entries = held?.entries ?? []
    entries.push(...added)
    entries.splice(0, entries.length - this.#limits.maxEvents)
    clearTimeout(held?.expiry)
    const ttl = added.some(({ event }) => isTerminal(event)) ? this.#limits.endedTtl : this.#limits.liveTtl
    this.#keep(key, entries, ttl)
  }

  #keep(key: string, entries: LoggedEvent[], ttl: number): void {
    this.#logs.set(key, { entries, expiry: setTimeout(() => this.#logs.delete(key), ttl).unref() })
  }
}

function keyOf({ tenantId, runId }: RunRef): string {
  return `${tenantId}:${runId}`
}
