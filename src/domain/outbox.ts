import type { Catalog, DueMessage } from '../data/catalog.ts'
import { isFenced } from '../data/fence.ts'
import type { OutboxEntry } from '../data/generated/client.ts'
import type { TenantData, TenantDb } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { EmailPayload } from './notification.ts'
import { persist } from './persistence.ts'
import { DeliveryFailure, type OutgoingPost, type Ports, type Unsubscribe } from './ports.ts'
import { startTicker } from './ticker.ts'
import { openWebhook } from './webhook.ts'

export type OutboxOptions = {
  data: TenantData
  catalog: Catalog
  ports: Pick<Ports, 'courier' | 'vault' | 'now'>
  /** Given what goes wrong in the background. The worker goes on. */
  onError: (error: unknown) => void
  timing?: Partial<OutboxTiming>
}

/** All in milliseconds. */
export type OutboxTiming = {
  /** Between two looks for what is due. Default 1,000. */
  look: number
  /** How long a delivery may take. Default 20,000. */
  patience: number
  /** After how long a message is due again that somebody began to deliver and was not heard of since. Default 30,000. */
  lease: number
}

const defaultTiming: OutboxTiming = { look: 1_000, patience: 20_000, lease: 30_000 }

/** Deliveries under way in a process, and for one tenant: so many that somebody slow holds up nobody else. */
const mostAtOnce = 64
const mostOfTenant = 4

/** Deliveries to the feed of all tenants, which have room of their own: while it is slow, tenants are told all the same. */
const mostOfFeed = 16

/** Attempts before a message is given up, a day after the first. */
const mostAttempts = 11

/** What a worker has claimed: the attempt is the claim. */
type Claimed = Pick<OutboxEntry, 'id' | 'channel' | 'webhookId' | 'notificationId' | 'attempts'> & { payload: unknown }

type Outcome = { outcome: 'delivered' } | { outcome: 'failed'; reason: string; final: boolean } | { outcome: 'interrupted' }

/**
 * Delivers what is in the outboxes of all tenants, each message at least once and under one id. Any number of workers may run, in
 * any number of processes: whoever claims a message has it for a while, and when that one dies, another delivers it. What is for the
 * feed is left to processes that have one.
 */
export class OutboxWorker {
  readonly #options: OutboxOptions
  readonly #timing: OutboxTiming
  /** What was due at the last look, and was not begun yet. */
  #due: readonly DueMessage[] = []
  /** The deliveries under way, by the message, and how many each lane has of them. */
  readonly #underWay = new Map<string, Promise<void>>()
  readonly #lanes = new Map<string, number>()
  readonly #stopping = new AbortController()
  #stopLooking: Unsubscribe = async () => undefined

  constructor(options: OutboxOptions) {
    this.#options = options
    this.#timing = { ...defaultTiming, ...options.timing }
  }

  start(): void {
    this.#stopLooking = startTicker(this.#timing.look, () => this.#look(), this.#options.onError)
  }

  /** Begins nothing more, and gives back what is under way, to be delivered by others. Never throws. */
  async stop(): Promise<void> {
    const stopped = this.#stopLooking()
    this.#stopping.abort()
    await stopped
    await Promise.all(this.#underWay.values())
  }

  /** Begins to deliver what is due, and waits for none of it. */
  async #look(): Promise<void> {
    const { catalog, ports } = this.#options
    this.#due = [...(ports.courier.usageFeed ? await catalog.dueFeedMessages() : []), ...(await catalog.dueMessages())]
    this.#begin()
  }

  /** Begins what there is room for, and the rest as room is made: whoever is fast need not wait for the next look. */
  #begin(): void {
    if (this.#stopping.signal.aborted) return
    this.#due = this.#due.filter((message) => {
      const { tenantId, id } = message
      if (this.#underWay.has(id)) return false
      const lane = laneOf(message)
      if (!this.#hasRoom(lane)) return true
      this.#count(lane, 1)
      const done = this.#serve(tenantId, id).finally(() => {
        this.#underWay.delete(id)
        this.#count(lane, -1)
        this.#begin()
      })
      this.#underWay.set(id, done)
      return false
    })
  }

  #hasRoom(lane: string): boolean {
    const [own, feed] = [this.#lanes.get(lane) ?? 0, this.#lanes.get(feedLane) ?? 0]
    return lane === feedLane ? own < mostOfFeed : own < mostOfTenant && this.#underWay.size - feed < mostAtOnce
  }

  #count(lane: string, change: 1 | -1): void {
    const count = (this.#lanes.get(lane) ?? 0) + change
    if (count === 0) this.#lanes.delete(lane)
    else this.#lanes.set(lane, count)
  }

  async #serve(tenantId: TenantId, id: string): Promise<void> {
    const db = this.#options.data.of({ tenantId, userId: null })
    try {
      const claimed = await claim(db, id, this.#timing.lease)
      if (!claimed) return
      const outcome = await this.#deliver(tenantId, db, claimed)
      await persist(() => this.#note(db, claimed, outcome))
      const { webhookId } = claimed
      if (webhookId !== null) await persist(() => noteHealth(db, webhookId, outcome))
    } catch (error) {
      // A tenant that is being moved takes its outbox along.
      if (!isFenced(error)) this.#options.onError(error)
    }
  }

  async #deliver(tenantId: TenantId, db: TenantDb, claimed: Claimed): Promise<Outcome> {
    const late = AbortSignal.timeout(this.#timing.patience)
    try {
      await this.#send(tenantId, db, claimed, AbortSignal.any([late, this.#stopping.signal]))
      return { outcome: 'delivered' }
    } catch (error) {
      if (this.#stopping.signal.aborted) return { outcome: 'interrupted' }
      if (late.aborted) return { outcome: 'failed', reason: 'It took too long.', final: false }
      if (error instanceof DeliveryFailure) return { outcome: 'failed', reason: error.message, final: error.final }
      this.#options.onError(error)
      return { outcome: 'failed', reason: 'Something went wrong on our side.', final: false }
    }
  }

  async #send(
    tenantId: TenantId,
    db: TenantDb,
    { id, channel, webhookId, notificationId, payload }: Claimed,
    signal: AbortSignal,
  ): Promise<void> {
    const { courier, vault } = this.#options.ports
    switch (channel) {
      case 'EMAIL':
        return courier.email({ ...(payload as EmailPayload), id }, signal)
      case 'WEBHOOK': {
        const target = await openWebhook({ tenantId, db, vault }, webhookId ?? '')
        if (!target) throw new DeliveryFailure('The webhook was deleted.', { final: true })
        const post = notificationId === null ? usageEvent(payload) : notice(id, payload)
        return courier.webhook({ ...target, ...post }, signal)
      }
      case 'USAGE_FEED':
        // Not claimed without a feed.
        if (!courier.usageFeed) throw new DeliveryFailure('There is no feed.', { final: false })
        return courier.usageFeed(usageEvent(payload), signal)
      default:
        return channel satisfies never
    }
  }

  /** Whoever delivered it says so, also when another has claimed it since; only its last claim says that it failed. */
  async #note(db: TenantDb, { id, channel, notificationId, attempts }: Claimed, outcome: Outcome): Promise<void> {
    const finishedAt = new Date(this.#options.ports.now())
    const own = { id, status: 'PENDING', attempts } as const
    const isUsage = channel !== 'EMAIL' && notificationId === null
    const isGivenUp = outcome.outcome === 'failed' && (outcome.final || attempts >= mostAttempts)
    if (isGivenUp && isUsage && channel === 'WEBHOOK') {
      // The tenant has it from the ledger.
      await db.outboxEntry.deleteMany({ where: own })
    } else if (outcome.outcome === 'delivered' && isUsage) {
      // The ledger keeps what it told.
      await db.outboxEntry.deleteMany({ where: { id, status: 'PENDING' } })
    } else if (outcome.outcome === 'delivered') {
      const data = { status: 'DELIVERED', dueAt: null, lastFailure: null, finishedAt } as const
      await db.outboxEntry.updateMany({ where: { id, status: 'PENDING' }, data })
    } else if (outcome.outcome === 'interrupted') {
      await db.outboxEntry.updateMany({ where: own, data: { attempts: attempts - 1, dueAt: finishedAt } })
    } else if (isGivenUp) {
      const data = { status: 'FAILED', dueAt: null, lastFailure: outcome.reason, finishedAt } as const
      await db.outboxEntry.updateMany({ where: own, data })
    } else {
      await retryLater(db, own, retryDelay(attempts), outcome.reason)
    }
  }
}

/** Says since when a webhook takes nothing, and that it does again. */
async function noteHealth(db: TenantDb, id: string, { outcome }: Outcome): Promise<void> {
  if (outcome === 'delivered')
    await db.$executeRaw`update webhooks set failing_since = null where id = ${id}::uuid and failing_since is not null`
  if (outcome === 'failed')
    await db.$executeRaw`update webhooks set failing_since = now() where id = ${id}::uuid and failing_since is null`
}

function notice(id: string, payload: unknown): OutgoingPost {
  return { id, body: JSON.stringify(payload), contentType: 'application/json' }
}

/** A usage event as it is posted. Whoever receives it knows it by its own id, which is that of the row in the ledger. */
function usageEvent(payload: unknown): OutgoingPost {
  const { id } = payload as { id: string }
  return { id, body: JSON.stringify(payload), contentType: 'application/cloudevents+json' }
}

/** What shares room: the messages to a tenant's own receivers, and those of all tenants to the feed. */
function laneOf({ tenantId, channel }: DueMessage): string {
  return channel === 'USAGE_FEED' ? feedLane : tenantId
}

const feedLane = 'feed'

/** Takes the message if it is due and nobody is at it. Time is the database's, so that clocks need not agree. */
async function claim(db: TenantDb, id: string, lease: number): Promise<Claimed | null> {
  const [claimed] = await db.$queryRaw<Claimed[]>`
    update outbox set attempts = attempts + 1, due_at = now() + make_interval(secs => ${lease / 1_000})
    where id = (select id from outbox where id = ${id}::uuid and due_at <= now() for update skip locked)
    returning id, channel::text, webhook_id as "webhookId", notification_id as "notificationId", payload, attempts`
  return claimed ?? null
}

async function retryLater(
  db: TenantDb,
  { id, attempts }: Pick<Claimed, 'id' | 'attempts'>,
  delay: number,
  reason: string,
): Promise<void> {
  await db.$executeRaw`
    update outbox set due_at = now() + make_interval(secs => ${delay / 1_000}), last_failure = ${reason}
    where id = ${id}::uuid and status = 'PENDING' and attempts = ${attempts}::int`
}

/**
 * How long to wait after so many attempts, in milliseconds: 5 s, then four times as long each time, up to 6 hours; a quarter more or
 * less, so that what failed together does not come back together. The ten waits come to 25.6 hours.
 */
export function retryDelay(attempts: number): number {
  const delay = Math.min(5_000 * 4 ** (attempts - 1), 6 * 60 * 60_000)
  return delay * (0.75 + Math.random() / 2)
}
