import { backlogAfter } from './event-log.ts'
import type { Backlog, EventLog, RunRef, Unsubscribe } from './ports.ts'
import { type Cursor, compareCursors, formatCursor, type LoggedEvent } from './run-event.ts'

type Listener = { receive: (events: readonly LoggedEvent[]) => void; lost: () => void }

/** One listener's place at a run's hub. */
export type HubSeat = {
  /** Everything after `after` that there is, in order, as the event log answers. */
  read(after: Cursor): Promise<Backlog>
  /**
   * What `look` finds, or what it finds for whoever has just begun to look under the same wall: that of the tenant's staff (null) or of
   * an end user. Nobody looks twice at the same time.
   */
  together<T>(userId: string | null, look: () => Promise<T>): Promise<T>
  /** Resolves once nothing more will be delivered. A second call does nothing. */
  leave: Unsubscribe
}

/** What a hub remembers of a run: events, and characters of text in them. The oldest go first. */
const mostEvents = 512
const mostText = 262_144

/** The hubs of each log, by run. A hub is there as long as somebody listens to its run here. */
const hubs = new WeakMap<EventLog, Map<string, RunHub>>()

/**
 * Listens to a run's log together with everybody else in this process who does: one subscription, and one reading of what was
 * before, however many they are, and all get the same objects. Resolves, and throws, as `EventLog.subscribe` does.
 *
 * Whoever joins must have been allowed to see the run: the hub asks nobody who they are.
 */
export async function joinHub(eventLog: EventLog, run: RunRef, { receive, lost }: Listener): Promise<HubSeat> {
  const ofLog = hubs.get(eventLog) ?? new Map<string, RunHub>()
  hubs.set(eventLog, ofLog)
  const key = `${run.tenantId}:${run.runId}`
  const hub = ofLog.get(key) ?? new RunHub(eventLog, run, () => void (ofLog.get(key) === hub && ofLog.delete(key)))
  ofLog.set(key, hub)
  const listener = { receive, lost }
  await hub.join(listener)
  return {
    read: (after) => hub.read(after),
    together: (userId, look) => hub.together(userId, look),
    leave: () => hub.leave(listener),
  }
}

/** One run's events in this process. */
class RunHub {
  readonly #eventLog: EventLog
  readonly #run: RunRef
  readonly #onEmpty: () => void
  readonly #listeners = new Set<Listener>()
  readonly #subscribed: Promise<Unsubscribe>
  readonly #readings = new Map<string, Promise<Backlog>>()
  readonly #looks = new Map<string | null, Promise<unknown>>()
  /** The newest events, without a hole between any two. */
  #ring: LoggedEvent[] = []
  #ringText = 0

  constructor(eventLog: EventLog, run: RunRef, onEmpty: () => void) {
    this.#eventLog = eventLog
    this.#run = run
    this.#onEmpty = onEmpty
    this.#subscribed = eventLog.subscribe(
      run,
      (events) => this.#receive(events),
      () => this.#lose(),
    )
  }

  async join(listener: Listener): Promise<void> {
    this.#listeners.add(listener)
    try {
      await this.#subscribed
    } catch (error) {
      this.#listeners.delete(listener)
      // The next one tries again.
      this.#onEmpty()
      throw error
    }
  }

  async leave(listener: Listener): Promise<void> {
    if (!this.#listeners.delete(listener) || this.#listeners.size > 0) return
    this.#onEmpty()
    const unsubscribe = await this.#subscribed
    await unsubscribe()
  }

  /**
   * From what is remembered, if that has anything to tell; else from the log, which knows better: what was published may have been lost
   * on its way here.
   */
  async read(after: Cursor): Promise<Backlog> {
    const from = this.#ring.findIndex(({ cursor }) => compareCursors(cursor, after) >= 0)
    const remembered = backlogAfter(after, from === -1 ? [] : this.#ring.slice(from))
    if (remembered.complete && remembered.events.length > 0) return remembered
    const key = formatCursor(after)
    const reading = this.#readings.get(key) ?? this.#readLog(after).finally(() => this.#readings.delete(key))
    this.#readings.set(key, reading)
    const { events, complete } = await reading
    return { events: this.#continued(events), complete }
  }

  together<T>(userId: string | null, look: () => Promise<T>): Promise<T> {
    const looking = this.#looks.get(userId) ?? look().finally(() => this.#looks.delete(userId))
    this.#looks.set(userId, looking)
    return looking as Promise<T>
  }

  async #readLog(after: Cursor): Promise<Backlog> {
    const backlog = await this.#eventLog.read(this.#run, after)
    if (this.#ring.length === 0) this.#remember(backlog.events)
    return backlog
  }

  /** With what has arrived since they were read: whoever joined in between has not heard of it. */
  #continued(events: LoggedEvent[]): LoggedEvent[] {
    const last = events.at(-1)
    const next = last ? this.#ring.findIndex(({ cursor }) => follows(cursor, last.cursor)) : -1
    return next === -1 ? events : [...events, ...this.#ring.slice(next)]
  }

  #receive(events: readonly LoggedEvent[]): void {
    this.#remember(events)
    for (const listener of this.#listeners) listener.receive(events)
  }

  #lose(): void {
    this.#forget()
    for (const listener of this.#listeners) listener.lost()
  }

  #remember(events: readonly LoggedEvent[]): void {
    for (const event of events) {
      const last = this.#ring.at(-1)
      if (last && compareCursors(event.cursor, last.cursor) <= 0) continue
      if (last && !follows(event.cursor, last.cursor)) this.#forget()
      this.#ring.push(event)
      this.#ringText += textIn(event)
    }
    if (this.#ring.length <= mostEvents && this.#ringText <= mostText) return
    // Down to half, so that not every event moves all others.
    let dropped = 0
    for (const event of this.#ring) {
      if (this.#ring.length - dropped <= mostEvents / 2 && this.#ringText <= mostText / 2) break
      this.#ringText -= textIn(event)
      dropped += 1
    }
    this.#ring.splice(0, dropped)
  }

  #forget(): void {
    this.#ring = []
    this.#ringText = 0
  }
}

/** Whether nothing is between the two: each epoch begins at 1, and says again what was before. */
function follows(cursor: Cursor, last: Cursor): boolean {
  return cursor.epoch === last.epoch ? cursor.seq === last.seq + 1 : cursor.epoch > last.epoch && cursor.seq === 1
}

function textIn({ event }: LoggedEvent): number {
  return 'text' in event ? event.text.length : 0
}
