import { setImmediate as settled } from 'node:timers/promises'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import type { Taken } from '../../src/domain/ports.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'

/** A load in virtual seconds. */
export type Load = {
  /** Runs, or calls of the model, that are executed at a time. */
  slots: number
  /** How much of them the light tenants keep busy. */
  baseLoad: number
  lightTenants: number
  /** What one tenant queues at once, after a third of the time. */
  burst: number
  seconds: number
}

type Job = { tenantId: TenantId; arrivesAt: number; service: number; isLight: boolean }

/** Takes what arrives, and calls `start` when its turn has come, which resolves when it is done. */
type Discipline = (slots: number, start: (job: Job) => Promise<void>) => (job: Job) => void

/** What everything is compared with: one queue for all. */
export const firstComeFirstServed: Discipline = (slots, start) => {
  const waiting: Job[] = []
  let free = slots
  let next = 0
  const serve = () => {
    while (free > 0 && next < waiting.length) {
      free--
      void start(waiting[next++] as Job).then(() => {
        free++
        serve()
      })
    }
  }
  return (job) => {
    waiting.push(job)
    serve()
  }
}

/** The run queue itself, whose tenants all have the weight 1. */
export const turns: Discipline = (slots, start) => {
  const queue = new MemoryRunQueue({ onError: fail })
  const backlogs = new Map<TenantId, Job[]>()
  const take = async (tenantId: TenantId): Promise<Taken | null> => {
    const backlog = backlogs.get(tenantId) ?? []
    const job = backlog.shift()
    return job ? { ended: start(job), weight: 1, othersWait: backlog.length > 0 } : null
  }
  queue.consume(take, slots)
  return (job) => {
    backlogs.set(job.tenantId, [...(backlogs.get(job.tenantId) ?? []), job])
    void queue.wake(job.tenantId)
  }
}

/** The model's slots themselves, for which all that arrives waits. */
export const shares: Discipline = (slots, start) => {
  const model = new MemoryModelSlots({ named: new Map([['m', slots]]), others: null })
  const never = new AbortController().signal
  return (job) => {
    const waiting = model.acquire({ model: 'm', tenantId: job.tenantId, weight: 1 }, never)
    void waiting.then((release) => start(job).then(release))
  }
}

/** Of each run of the light tenants, in seconds, sorted: how long it waited to be started, and until it was done. */
export type Waits = { toStart: Float64Array; toEnd: Float64Array }

/** The same load each time. */
export async function simulate(discipline: Discipline, load: Load): Promise<Waits> {
  const jobs = jobsOf(load)
  const toStart: number[] = []
  const toEnd: number[] = []
  const running: { endsAt: number; end: () => void }[] = []
  let clock = 0
  const start = (job: Job) => {
    if (job.isLight) {
      toStart.push(clock - job.arrivesAt)
      toEnd.push(clock + job.service - job.arrivesAt)
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    const endsAt = clock + job.service
    const later = running.findIndex((other) => other.endsAt > endsAt)
    running.splice(later === -1 ? running.length : later, 0, { endsAt, end: resolve })
    return promise
  }
  const arrive = discipline(load.slots, start)
  let next = 0
  for (;;) {
    const [job, first] = [jobs[next], running[0]]
    if (!job && !first) return { toStart: new Float64Array(toStart).sort(), toEnd: new Float64Array(toEnd).sort() }
    if (job && (!first || job.arrivesAt <= first.endsAt)) {
      clock = job.arrivesAt
      next++
      arrive(job)
    } else if (first) {
      clock = first.endsAt
      running.shift()
      first.end()
    }
    // Nothing here takes time but promises.
    if (jobs[next]?.arrivesAt !== clock) await settled()
  }
}

/** Poisson arrivals and exponential times of a second on average, always the same ones. */
function jobsOf({ slots, baseLoad, lightTenants, burst, seconds }: Load): Job[] {
  const random = randomFrom(1)
  const exponential = (mean: number) => -mean * Math.log(1 - random())
  const tenants = Array.from({ length: lightTenants }, () => tenantIdOf(newId()))
  const jobs: Job[] = []
  for (let at = exponential(1 / (slots * baseLoad)); at < seconds; at += exponential(1 / (slots * baseLoad))) {
    const tenantId = tenants[Math.floor(random() * lightTenants)] as TenantId
    jobs.push({ tenantId, arrivesAt: at, service: exponential(1), isLight: true })
  }
  const heavy = tenantIdOf(newId())
  const bursting = randomFrom(2)
  for (let run = 0; run < burst; run++) {
    jobs.push({ tenantId: heavy, arrivesAt: seconds / 3, service: -Math.log(1 - bursting()), isLight: false })
  }
  return jobs.sort((one, other) => one.arrivesAt - other.arrivesAt)
}

/** Mulberry32, a generator of 32 bits of state by Tommy Ettinger. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

function fail(error: unknown): void {
  throw error
}
