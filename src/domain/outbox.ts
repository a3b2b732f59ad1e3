import type { Catalog } from '../data/catalog.ts'
import { isFenced } from '../data/fence.ts'
import type { OutboxEntry } from '../data/generated/client.ts'
import type { TenantData, TenantDb } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { EmailPayload } from './notification.ts'
import { persist } from './persistence.ts'
import { DeliveryFailure, type Ports, type Unsubscribe } from './ports.ts'
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

/** Attempts before a message is given up, a day after the first. */
const mostAttempts = 11

/** What a worker has claimed: the attempt is the claim. */
type Claimed = Pick<OutboxEntry, 'id' | 'channel' | 'webhookId' | 'attempts'> & { payload: unknown }

type Outcome = { outcome: 'delivered' } | { outcome: 'failed'; reason: string; final: boolean } | { outcome: 'interrupted' }

/**
 * Delivers what is in the outboxes of all tenants, each message at least once and under one id. Any number of workers may run, in
 * any number of processes: whoever claims a message has it for a while, and when that one dies, another delivers it.
 */
export class OutboxWorker {
  readonly #options: OutboxOptions
  readonly #timing: OutboxTiming
  /** Whose each delivery under way is, by the message. */
  readonly #underWay = new Map<string, { tenantId: TenantId; done: Promise<void> }>()
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
    await Promise.all([...this.#underWay.values()].map(({ done }) => done))
  }

  /** Begins to deliver what is due, and waits for none of it. */
  async #look(): Promise<void> {
    for (const { tenantId, id } of await this.#options.catalog.dueMessages()) {
      if (this.#stopping.signal.aborted || this.#underWay.size >= mostAtOnce) return
      const own = [...this.#underWay.values()].filter((each) => each.tenantId === tenantId)
      if (this.#underWay.has(id) || own.length >= mostOfTenant) continue
      const done = this.#serve(tenantId, id).finally(() => this.#underWay.delete(id))
      this.#underWay.set(id, { tenantId, done })
    }
  }

  async #serve(tenantId: TenantId, id: string): Promise<void> {
    const db = this.#options.data.of({ tenantId, userId: null })
    try {
      const claimed = await claim(db, id, this.#timing.lease)
      if (!claimed) return
      const outcome = await this.#deliver(tenantId, db, claimed)
      await persist(() => this.#note(db, claimed, outcome))
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
    { id, channel, webhookId, payload }: Claimed,
    signal: AbortSignal,
  ): Promise<void> {
    const { courier, vault } = this.#options.ports
    switch (channel) {
      case 'EMAIL':
        return courier.email({ ...(payload as EmailPayload), id }, signal)
      case 'WEBHOOK': {
        const target = await openWebhook({ tenantId, db, vault }, webhookId ?? '')
        if (!target) throw new DeliveryFailure('The webhook was deleted.', { final: true })
        return courier.webhook({ ...target, id, body: JSON.stringify(payload) }, signal)
      }
      case 'USAGE_FEED':
        throw new DeliveryFailure('There is no feed.', { final: true })
      default:
        return channel satisfies never
    }
  }

  /** Whoever delivered it says so, also when another has claimed it since; only its last claim says that it failed. */
  async #note(db: TenantDb, { id, attempts }: Claimed, outcome: Outcome): Promise<void> {
    const finishedAt = new Date(this.#options.ports.now())
    const own = { id, status: 'PENDING', attempts } as const
    if (outcome.outcome === 'delivered') {
      const data = { status: 'DELIVERED', dueAt: null, lastFailure: null, finishedAt } as const
      await db.outboxEntry.updateMany({ where: { id, status: 'PENDING' }, data })
    } else if (outcome.outcome === 'interrupted') {
      await db.outboxEntry.updateMany({ where: own, data: { attempts: attempts - 1, dueAt: finishedAt } })
    } else if (outcome.final || attempts >= mostAttempts) {
      const data = { status: 'FAILED', dueAt: null, lastFailure: outcome.reason, finishedAt } as const
      await db.outboxEntry.updateMany({ where: own, data })
    } else {
      await retryLater(db, own, retryDelay(attempts), outcome.reason)
    }
  }
}

/** Takes the message if it is due and nobody is at it. Time is the database's, so that clocks need not agree. */
async function claim(db: TenantDb, id: string, lease: number): Promise<Claimed | null> {
  const [claimed] = await db.$queryRaw<Claimed[]>`
    update outbox set attempts = attempts + 1, due_at = now() + make_interval(secs => ${lease / 1_000})
    where id = (select id from outbox where id = ${id}::uuid and due_at <= now() for update skip locked)
    returning id, channel::text, webhook_id as "webhookId", payload, attempts`
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
