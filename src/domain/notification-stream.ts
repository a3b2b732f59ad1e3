import type { Notification } from '../data/generated/client.ts'
import { type Place, parsePlace } from './page.ts'
import { requireRole, type Scope } from './scope.ts'

export type NotificationStreamOptions = {
  /** How long to wait for a signal before looking anyway, since it may be lost, in milliseconds. Default 5,000. */
  silence?: number
}

/**
 * By how much a notification may come late: be stored after one that is younger, by the clock of another process, or since its
 * transaction took long. Milliseconds.
 */
const lateness = 5 * 60_000

/** Notifications that are read at a time. */
const batch = 100

/**
 * What the tenant's admins are told from now on, or since the place of the cursor `after`, in the order in which it is found:
 * nothing is missed while it is followed, and nothing repeated. Before the first throws Forbidden, and a ValidationProblem when
 * `after` is no cursor of the list of notifications. `return()` and the signal end it at once, also while it waits. For admins.
 */
export function followNotifications(
  scope: Scope,
  after: string | null,
  signal: AbortSignal,
  options: NotificationStreamOptions = {},
): AsyncGenerator<Notification, void, undefined> {
  const left = new AbortController()
  const notifications = follow(scope, after, AbortSignal.any([signal, left.signal]), options)
  const finish = notifications.return.bind(notifications)
  // A generator that waits for its next event would only return after it.
  notifications.return = (value) => {
    left.abort()
    return finish(value)
  }
  return notifications
}

async function* follow(
  scope: Scope,
  after: string | null,
  signal: AbortSignal,
  { silence = 5_000 }: NotificationStreamOptions,
): AsyncGenerator<Notification, void, undefined> {
  requireRole(scope, 'ADMIN')
  const place = parsePlace('after', after)
  if (signal.aborted) return
  const bell = new Bell(signal)
  // First, so that what is told while the others are read is heard of.
  const unsubscribe = await scope.ports.signals.subscribe((heard) => {
    if (heard.type === 'NotificationCreated' && heard.tenantId === scope.tenant.id) bell.ring()
  })
  try {
    const reader = new Reader(scope, place)
    await reader.begin()
    while (!signal.aborted) {
      for (let found = await reader.read(); found.length > 0 && !signal.aborted; found = await reader.read()) yield* found
      await bell.wait(silence)
    }
  } finally {
    await unsubscribe()
  }
}

/** Finds each notification once. Looks back far enough for those that come late, and knows which of them it had. */
class Reader {
  readonly #scope: Scope
  readonly #after: Place | null
  /** When each that was had, and is recent enough to be found again, was created. */
  readonly #had = new Map<string, number>()
  #newest = 0

  constructor(scope: Scope, after: Place | null) {
    this.#scope = scope
    this.#after = after
  }

  /** From here on everything is new, but what is there already unless it comes after the place. */
  async begin(): Promise<void> {
    if (!this.#after) {
      const newest = await this.#scope.db.notification.findFirst({ orderBy: { createdAt: 'desc' }, select: { createdAt: true } })
      this.#newest = newest?.createdAt.getTime() ?? 0
      for (let found = await this.read(); found.length > 0; found = await this.read());
      return
    }
    const { id, createdAt } = this.#after
    this.#newest = createdAt.getTime()
    const before = { OR: [{ createdAt: { lt: createdAt } }, { createdAt, id: { lte: id } }] }
    this.#remember(await this.#scope.db.notification.findMany({ where: { AND: [this.#recent(), before] } }))
  }

  /** The oldest that were not had. None are left when it finds none. */
  async read(): Promise<Notification[]> {
    const found = await this.#scope.db.notification.findMany({
      where: { ...this.#recent(), id: { notIn: [...this.#had.keys()] } },
      orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
      take: batch,
    })
    this.#remember(found)
    return found
  }

  #recent() {
    return { createdAt: { gte: new Date(Math.max(this.#newest - lateness, 0)) } }
  }

  #remember(found: readonly Notification[]): void {
    for (const { id, createdAt } of found) {
      this.#had.set(id, createdAt.getTime())
      this.#newest = Math.max(this.#newest, createdAt.getTime())
    }
    for (const [id, createdAt] of this.#had) if (createdAt < this.#newest - lateness) this.#had.delete(id)
  }
}

/** Wakes the one who waits, or lets whoever comes next not wait. */
class Bell {
  readonly #signal: AbortSignal
  #rung = false
  #wake: () => void = () => undefined

  constructor(signal: AbortSignal) {
    this.#signal = signal
    signal.addEventListener('abort', () => this.ring(), { once: true })
  }

  ring(): void {
    this.#rung = true
    this.#wake()
  }

  /** Until it rings, for so many milliseconds at most. */
  async wait(patience: number): Promise<void> {
    if (!this.#rung && !this.#signal.aborted) {
      const woken = Promise.withResolvers<void>()
      this.#wake = woken.resolve
      const timer = setTimeout(woken.resolve, patience)
      await woken.promise
      clearTimeout(timer)
    }
    this.#rung = false
  }
}
