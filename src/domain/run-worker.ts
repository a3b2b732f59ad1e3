import { setTimeout as delay } from 'node:timers/promises'
import type { Catalog } from '../data/catalog.ts'
import { isFenced } from '../data/fence.ts'
import { isOutage } from '../data/outage.ts'
import type { TenantData } from '../data/tenant-scope.ts'
import type { CallId, QuotaReading, SettledCall } from './admission.ts'
import { noticeRequests } from './approval-notice.ts'
import { isStored, type NotedCall, settleCalls } from './call-attempt.ts'
import { Unavailable } from './errors.ts'
import { settle } from './escrow.ts'
import { newId, type TenantId, tenantIdOf } from './ids.ts'
import { persist } from './persistence.ts'
import type { Ports, RunRef, Taken, Unsubscribe } from './ports.ts'
import { quotaSourceOf } from './quota-terms.ts'
import { noticeThresholds } from './quota-threshold.ts'
import { type ClaimedRun, claimRun, type RunTenant } from './run-claim.ts'
import { type ClosedClaim, endClaim, saveTurn } from './run-ending.ts'
import { RunLog } from './run-log.ts'
import { type LoopOutcome, type RunTask, runTurns, type StopReason } from './run-loop.ts'
import { stopShutOut } from './run-stop.ts'
import { RunSweeper } from './run-sweeper.ts'
import { textOf, turnsOf } from './run-turn.ts'
import { SideBySide } from './side-by-side.ts'
import { startTicker } from './ticker.ts'
import { callIdOf } from './usage.ts'
import { entryNow } from './usage-feed.ts'

export type RunWorkerOptions = {
  data: TenantData
  catalog: Catalog
  ports: Ports
  /** Given what goes wrong in the background. The worker goes on. */
  onError: (error: unknown) => void
  /** Runs that are executed at a time. Default 100. */
  concurrency?: number
  timing?: Partial<WorkerTiming>
}

/** All in milliseconds. */
export type WorkerTiming = {
  /** Between two heartbeats. Default 2,000. */
  heartbeat: number
  /** How long a worker may be silent before its runs are given to others. Default 10,000. */
  deadAfter: number
  /** Between two looks for runs that nobody cares for. Default 2,000. */
  sweep: number
  /** How long a run may be queued before its tenant is woken again. Default 2,000. */
  overdueAfter: number
  /** Between two looks for what became of the runs under way. Default 500. */
  watch: number
  /** Between two renewals of the sessions of runs under way and queued. Default 20,000. */
  renew: number
}

const defaultTiming: WorkerTiming = {
  ...{ heartbeat: 2_000, deadAfter: 10_000, sweep: 2_000, overdueAfter: 2_000, watch: 500, renew: 20_000 },
}

/** Claims of one run, after which it is given up: something about it kills workers. */
const mostClaims = 20

/**
 * `call` is the model call that tokens are held for, if there is one. What is not stored yet cannot be looked for in the database. `isNew`: it was
 * stored as it was claimed, and nobody looked since whether who asked for it was shut out meanwhile.
 */
type Claim = RunRef & {
  epoch: number
  call: CallId | null
  isStored: boolean
  isNew: boolean
  stop: (reason: StopReason) => void
}

/**
 * Executes runs: claims them, makes the answers, and ends each exactly once. Any number of workers may run, in any number of
 * processes: each run belongs to the one that claimed it last, and whoever had it before cannot write to it any more.
 */
export class RunWorker {
  readonly id = newId()
  readonly #options: RunWorkerOptions
  readonly #timing: WorkerTiming
  readonly #claims = new Map<string, Claim>()
  readonly #watching = new SideBySide<string | null>()
  readonly #checking = new SideBySide<TenantId>()
  readonly #sweeper: RunSweeper
  /** When the worker was last seen, as it knows, in milliseconds of the process. */
  #seenAt = performance.now()
  #stopTaking: Unsubscribe = async () => undefined
  #stopBackground: Unsubscribe[] = []
  #draining = false

  constructor(options: RunWorkerOptions) {
    // That a tenant is being moved away or erased is nobody's failure: its runs end with its data here.
    const onError = (error: unknown) => void (isFenced(error) || options.onError(error))
    this.#options = { ...options, onError }
    this.#timing = { ...defaultTiming, ...options.timing }
    const { deadAfter, overdueAfter } = this.#timing
    const worker = { id: this.id, claims: this.#claims }
    this.#sweeper = new RunSweeper({ ...this.#options, worker, isTaking: () => !this.#draining, deadAfter, overdueAfter })
  }

  /** Runs that it executes now. */
  get underWay(): number {
    return this.#claims.size
  }

  /** Begins to take runs. Throws, and nothing runs, when the database or the signals cannot be reached. */
  async start(): Promise<void> {
    const { ports, onError, concurrency = 100 } = this.#options
    await this.#beat()
    const unsubscribe = await ports.signals.subscribe((signal) => {
      if (signal.type === 'CancelRun') this.#claims.get(signal.runId)?.stop('cancelled')
    })
    const { heartbeat, sweep, watch, renew } = this.#timing
    this.#stopBackground = [
      startTicker(renew, () => this.#renew(), onError),
      startTicker(watch, () => this.#watch(), onError),
      startTicker(watch, () => this.#checkAskers(), onError),
      startTicker(sweep, () => this.#sweeper.sweep(), onError),
      startTicker(heartbeat, () => this.#beat(), onError),
      unsubscribe,
    ]
    const serve = (claimed: ClaimedRun) => this.#serve(tenantIdOf(claimed.run.tenantId), claimed, { isNew: true }).catch(onError)
    this.#stopTaking = ports.runQueue.consume((tenantId) => this.#take(tenantId), concurrency, { workerId: this.id, serve })
  }

  /**
   * Takes no more runs, lets those under way come to an end for `grace` milliseconds, hands the rest back to the queue, and
   * stops. Never throws.
   */
  async drain(grace: number): Promise<void> {
    this.#draining = true
    const ended = this.#stopTaking()
    const patience = new AbortController()
    await Promise.race([ended, delay(grace, undefined, { signal: patience.signal }).catch(() => undefined)])
    patience.abort()
    for (const claim of this.#claims.values()) claim.stop('handedBack')
    await ended
    // To the last its heart beats: nobody takes a run over that is just being ended.
    for (const stop of this.#stopBackground) await stop()
    await this.#options.catalog.removeWorker(this.id).catch(this.#options.onError)
  }

  async #beat(): Promise<void> {
    const at = performance.now()
    await this.#options.catalog.heartbeat(this.id)
    this.#seenAt = at
  }

  /** Claims a run of the tenant and begins to execute it. */
  async #take(tenantId: TenantId): Promise<Taken | null> {
    if (this.#draining) return null
    const claimed = await this.#claim(tenantId)
    if (!claimed) return null
    const { tenant, othersWait } = claimed
    return {
      ended: this.#serve(tenantId, claimed, { isNew: false }).catch(this.#options.onError),
      weight: tenant.weight,
      othersWait,
    }
  }

  async #claim(tenantId: TenantId) {
    try {
      return await claimRun(this.#options.data.of({ tenantId, userId: null }), tenantId, this.id)
    } catch (error) {
      if (isFenced(error)) return null
      throw error
    }
  }

  /** Executes the run, from its claim to its end. */
  async #serve(tenantId: TenantId, { run, tenant, brief, noted }: ClaimedRun, { isNew }: Pick<Claim, 'isNew'>): Promise<void> {
    const { data, ports, onError } = this.#options
    const ref = { tenantId, runId: run.id }
    const stopping = new AbortController()
    const stop = (reason: StopReason) => stopping.abort(reason)
    const claim: Claim = { ...ref, epoch: run.epoch, call: null, isStored: noted === null, isNew, stop }
    this.#claims.set(run.id, claim)
    noted?.stored.then(
      () => {
        claim.isStored = true
      },
      () => stop('fenced'),
    )
    if (this.#draining) stop('handedBack')
    const text = textOf(turnsOf(run))
    const log = new RunLog({
      eventLog: ports.eventLog,
      run: ref,
      claim: run.epoch,
      text,
      onFenced: () => stop('fenced'),
      onError,
    })
    const db = data.of({ tenantId, userId: run.userId })
    const quotaSource = quotaSourceOf(data.of({ tenantId, userId: null }), tenantId)
    const quota = { tenant: { id: tenantId, limitsVersion: tenant.limitsVersion }, quotaSource, ports }
    const onCall = (call: CallId) => {
      claim.call = call
      this.#sweeper.called(claim)
    }
    let isAwaited = true
    try {
      const { ending, paused, calls, ...closed } = await this.#execute({
        ...{ run, tenant, brief, noted: this.#standing(noted), quota, db, ports, log },
        ...{ stop: stopping.signal, onCall },
      })
      this.#sweeper.forget(claim)
      isAwaited = closed.isAwaited
      // Before anybody hears of the end: whoever asks for the next answer then finds the session free.
      const quotaNow = await this.#settle(ref, calls, ending || paused ? run.epoch : null)
      const last = ending ? [ending.event] : paused
      if (last) await log.end(...last)
      if (quotaNow) await this.#notice(tenantId, tenant, quotaNow)
      if (paused) await noticeRequests({ tenant: { id: tenantId }, db: data.of({ tenantId, userId: null }), ports }, paused)
    } catch (error) {
      onError(error)
    } finally {
      await log.close()
      if (this.#claims.get(run.id) === claim) this.#claims.delete(run.id)
    }
    // The next run of its conversation may be claimed now; one that was handed back waits for another worker.
    if (isAwaited) await ports.runQueue.wake(tenantId).catch(onError)
  }

  /** What was noted stands while others have no reason to take this worker for dead, and its runs. */
  #standing(noted: NotedCall | null): NotedCall | null {
    const isSeen = performance.now() - this.#seenAt < this.#timing.deadAfter / 2
    return noted && !isSeen ? { ...noted, notedAt: Number.NEGATIVE_INFINITY } : noted
  }

  /** Throws when not even the end of the claim could be stored. */
  async #execute(task: RunTask): Promise<ClosedClaim> {
    const { run, db, ports, noted } = task
    const loop = await this.#loop(task)
    if (!(await isStored(noted))) {
      // If it is there all the same, it is found by the database alone.
      const id = callIdOf({ runId: run.id, turn: 0, attempt: run.epoch })
      return { ending: null, paused: null, calls: [{ id, tokens: 0, at: ports.now(), isOurs: true }], isAwaited: false }
    }
    // A call that was noted and did not begin is forgotten: nobody shall be charged for it.
    const outcome = task.noted ? { ...loop, call: { turn: 0, usage: null }, terms: task.noted.terms } : loop
    return persist(() => endClaim(db, run, outcome, entryNow(ports)))
  }

  /** The loop. A defect ends the run like any other failure; without the database it is left for later. */
  async #loop(task: RunTask): Promise<LoopOutcome> {
    const { run, tenant, db, ports, noted } = task
    const failed = (code: string, message: string): LoopOutcome => ({
      ...{ outcome: 'failed', failure: { code, message } },
      ...{ turns: turnsOf(run), call: null, terms: null },
    })
    if (run.epoch - run.excusedClaims > mostClaims)
      return failed('GIVEN_UP', 'The run was tried too many times without coming to an end.')
    const ref = { tenantId: tenantIdOf(run.tenantId), runId: run.id }
    const owner = { tenant: { id: ref.tenantId }, db, ports }
    try {
      if (run.epoch > 1) await settleCalls(owner, run.id, run.epoch - 1)
      return await runTurns(task, async (turns, toolCalls, call, terms) => {
        const { isOurs, settled } = await persist(() => saveTurn(db, run, turns, toolCalls, call, terms, entryNow(ports)))
        const quota = await this.#settle(ref, [settled], null)
        if (quota) await this.#notice(ref.tenantId, tenant, quota)
        return isOurs
      })
    } catch (error) {
      if (isOutage(error) || isFenced(error)) throw error
      this.#options.onError(error)
      if (!task.noted && (await isStored(noted))) await settleCalls(owner, run.id, run.epoch).catch(this.#options.onError)
      return failed('INTERNAL', 'Something went wrong on our side.')
    }
  }

  /** Tells the counters what is in the ledger. What goes wrong there is nothing to the run. */
  async #settle({ tenantId, runId }: RunRef, calls: SettledCall[], leave: number | null): Promise<QuotaReading | null> {
    const { ports, onError } = this.#options
    return settle({ tenant: { id: tenantId }, ports }, { runId, calls, leave }).catch((error) => {
      onError(error)
      return null
    })
  }

  async #notice(id: TenantId, tenant: RunTenant, quota: QuotaReading): Promise<void> {
    const { data, ports } = this.#options
    await noticeThresholds({ tenant: { id }, db: data.of({ tenantId: id, userId: null }), ports }, tenant, quota)
  }

  /** Keeps the sessions of runs under way and queued, and what is held for calls. What cannot be reached has nothing to keep. */
  async #renew(): Promise<void> {
    const { catalog, ports, onError } = this.#options
    const queued = (await catalog.queuedRuns()).map((ref) => ({ ...ref, call: null }))
    for (const [tenantId, runs] of Map.groupBy([...this.#claims.values(), ...queued], (run) => run.tenantId)) {
      await ports.admission.renew(tenantId, runs).catch((error: unknown) => void (error instanceof Unavailable || onError(error)))
    }
  }

  /**
   * What signals say may be lost: asks for each run under way whether it is still this worker's, and wanted. One statement for each
   * database, however many tenants the runs are of.
   */
  async #watch(): Promise<void> {
    const { catalog } = this.#options
    const stored = [...this.#claims.values()].filter(({ isStored }) => isStored)
    const byDatabase = Map.groupBy(stored, ({ tenantId }) => catalog.placements.databaseOf(tenantId))
    await this.#watching.each(byDatabase, async (databaseId, claims) => {
      const standings = await catalog.standingOf(claims, databaseId)
      const byRun = new Map(standings.map((standing) => [standing.runId, standing]))
      for (const { runId, epoch, stop } of claims) {
        const standing = byRun.get(runId)
        // Its conversation was deleted.
        if (!standing) stop('cancelled')
        else if (standing.epoch !== epoch || !standing.isUnderWay) stop('fenced')
        else if (standing.isToEnd) stop('cancelled')
      }
    })
  }

  /** Who asked for a run may have been shut out while it was being stored, and all runs of theirs stopped that were there. */
  async #checkAskers(): Promise<void> {
    const { data, ports } = this.#options
    const unchecked = [...this.#claims.values()].filter(({ isNew, isStored }) => isNew && isStored)
    await this.#checking.each(
      Map.groupBy(unchecked, ({ tenantId }) => tenantId),
      async (tenantId, claims) => {
        const db = data.of({ tenantId, userId: null })
        const ids = claims.map(({ runId }) => runId)
        const stopped = await stopShutOut(db, tenantId, ids, new Date(ports.now()))
        for (const claim of claims) {
          claim.isNew = false
          if (stopped.has(claim.runId)) claim.stop('cancelled')
        }
      },
    )
  }
}
