import { setTimeout as delay } from 'node:timers/promises'
import { createRedisBackend, type Job, Queue, Worker } from 'bullmq'
import { newId, type TenantId, tenantIdOf } from '../domain/ids.ts'
import type { RunQueue, Take, Taken, Unsubscribe } from '../domain/ports.ts'
import { type Host, type Place, placeAmong } from '../domain/run-place.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { platformKeys } from './key-space.ts'
import { WakeUpBell } from './wake-up-bell.ts'

/** One queue for the platform, in one slot of a cluster. Its jobs hold a tenant's id and nothing else. */
const name = 'runs'
const { prefix } = platformKeys.wakeUps

/**
 * How long a wake-up may be in the hands of a process that died, in milliseconds, and how often that is looked for. Meanwhile no other of the tenant is
 * served: together it is less than a worker must be silent for its runs to be given to others, who then have to hear of them. Who takes longer
 * while alive has it served twice, which does no harm.
 */
const lockDuration = 5_000
const stalledInterval = 2_500

/** How long to wait for the next wake-up before looking for one anyway, in seconds: less than a command may take. */
const longestWait = 0.5

/** The pause after a failed look for the next wake-up, in milliseconds. */
const pauseAfterFailure = 500

/** `taken` is how many of the tenant's runs were claimed in its turn. */
type WakeUp = { tenantId: string; taken?: number }

/**
 * The wake-ups of all instances, as a BullMQ queue. A tenant has one that waits and one that is being served, which makes a plain
 * queue go round the tenants. A wake-up is served as soon as as many runs are claimed as the tenant's weight says: executing them is
 * nobody's job.
 */
export class RedisRunQueue implements RunQueue {
  readonly #connection: RedisConnection
  readonly #queue: Queue<WakeUp>
  readonly #consumers = new Set<Consumer>()

  constructor(connection: RedisConnection) {
    this.#connection = connection
    this.#queue = new Queue(name, { prefix, connection: connection.commands, skipVersionCheck: true })
    // What the connection reports, it reports itself.
    this.#queue.on('error', () => undefined)
  }

  /** Throws Unavailable while Redis cannot be reached. */
  async wake(tenantId: TenantId): Promise<void> {
    // Said while the tenant's last one is being served, it is kept for afterwards: that one may have looked too early.
    const deduplication = { id: tenantId, keepLastIfActive: true }
    const options = { deduplication, removeOnComplete: true, removeOnFail: true }
    await replyTo(this.#queue.add('wake', { tenantId }, options))
  }

  consume(take: Take, concurrency: number, host: Host | null = null): Unsubscribe {
    const consumer = new Consumer(this, this.#connection, take, concurrency, host)
    this.#consumers.add(consumer)
    return () => {
      this.#consumers.delete(consumer)
      return consumer.stop()
    }
  }

  reserve(): Place | null {
    for (const consumer of this.#consumers) {
      const place = consumer.reserve()
      if (place) return place
    }
    return null
  }
}

/** Takes wake-ups for one worker, one after the other, while it has room for another run. */
class Consumer {
  readonly #queue: RedisRunQueue
  readonly #connection: RedisConnection
  readonly #take: Take
  readonly #concurrency: number
  readonly #host: Host | null
  readonly #token = newId()
  readonly #worker: Worker<WakeUp>
  readonly #bell: WakeUpBell
  readonly #running = new Set<Promise<void>>()
  readonly #stopping = new AbortController()
  readonly #loop: Promise<void>

  constructor(queue: RedisRunQueue, connection: RedisConnection, take: Take, concurrency: number, host: Host | null) {
    this.#queue = queue
    this.#connection = connection
    this.#take = take
    this.#concurrency = concurrency
    this.#host = host
    const options = {
      ...{ prefix, connection: connection.commands, skipVersionCheck: true, autorun: false },
      ...{ lockDuration, stalledInterval, maxStalledCount: Number.MAX_SAFE_INTEGER },
    }
    // Without the connection that it would wait on.
    this.#worker = new Worker<WakeUp>(name, null, options, (queue, given) => createRedisBackend(queue, given))
    this.#worker.on('error', () => undefined)
    this.#bell = new WakeUpBell(connection.shards, this.#worker.toKey('marker'))
    this.#loop = this.#run()
  }

  reserve(): Place | null {
    if (!this.#host || this.#running.size >= this.#concurrency) return null
    // The loop looks by itself whether there is room.
    return placeAmong(this.#running, this.#host, () => undefined)
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await Promise.all([this.#loop, this.#bell.close()])
    await this.#worker.close(true)
    await Promise.all(this.#running)
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping
    await this.#worker.startStalledCheckTimer().catch(this.#connection.onError)
    while (!signal.aborted) {
      if (this.#running.size >= this.#concurrency) {
        await Promise.race(this.#running)
        continue
      }
      try {
        const job = await this.#worker.getNextJob(this.#token, { block: false })
        if (job) this.#serve(job, signal.aborted)
        else if (!signal.aborted) await this.#bell.wait(longestWait)
      } catch (error) {
        if (signal.aborted) return
        this.#connection.onError(error)
        await delay(pauseAfterFailure, undefined, { signal }).catch(() => undefined)
      }
    }
  }

  /** From the wake-up to the end of the run that it led to. */
  #serve(job: Job<WakeUp>, tooLate: boolean): void {
    const running = (tooLate ? this.#handBack(job) : this.#follow(job)).finally(() => this.#running.delete(running))
    this.#running.add(running)
  }

  async #follow(job: Job<WakeUp>): Promise<void> {
    const tenantId = tenantIdOf(job.data.tenantId)
    const taken = await this.#claim(tenantId)
    const before = job.data.taken ?? 0
    // What fails here is mended by time: a job that was not completed is found stalled, a tenant that was not woken overdue.
    if (taken?.othersWait && before + 1 < taken.weight) await this.#goOn(job, before + 1).catch(this.#connection.onError)
    else {
      await job.moveToCompleted(null, this.#token, false).catch(this.#connection.onError)
      if (taken?.othersWait) await this.#queue.wake(tenantId).catch(this.#connection.onError)
    }
    await taken?.ended
  }

  /** The tenant's turn is not over: its wake-up goes before the others, to whichever consumer has room. */
  async #goOn(job: Job<WakeUp>, taken: number): Promise<void> {
    await job.updateData({ ...job.data, taken })
    await job.moveToWait(this.#token)
  }

  /** For another consumer. */
  async #handBack(job: Job<WakeUp>): Promise<void> {
    await job.moveToCompleted(null, this.#token, false).catch(this.#connection.onError)
    await this.#queue.wake(tenantIdOf(job.data.tenantId)).catch(this.#connection.onError)
  }

  async #claim(tenantId: TenantId): Promise<Taken | null> {
    try {
      return await this.#take(tenantId)
    } catch (error) {
      this.#connection.onError(error)
      return null
    }
  }
}
