import type { Catalog } from '../data/catalog.ts'
import type { TenantData } from '../data/tenant-scope.ts'
import { expireRequests } from './approval.ts'
import { settleCalls } from './call-attempt.ts'
import type { TenantId } from './ids.ts'
import type { Ports, RunRef } from './ports.ts'
import { requeue } from './run-ending.ts'
import { SideBySide } from './side-by-side.ts'

export type RunSweeperOptions = {
  data: TenantData
  catalog: Catalog
  ports: Ports
  onError: (error: unknown) => void
  /** The worker that this sweeps for, and what it executes, by the run's id. */
  worker: { id: string; claims: ReadonlyMap<string, { epoch: number }> }
  /** Whether the worker takes runs: one that does not wakes no tenants. */
  isTaking: () => boolean
  /** Milliseconds: see WorkerTiming. */
  deadAfter: number
  overdueAfter: number
}

/** One claim of a run. */
type ClaimRef = Pick<RunRef, 'runId'> & { epoch: number }

/**
 * Workers that look for what nobody cares for, of all that there are: each look passes over all runs under way, so that they must not
 * grow with the number of workers. Who it is is left to chance: of a hundred workers nobody looks one time in 59, and then two seconds later.
 */
const lookers = 4

function nameOf({ runId, epoch }: ClaimRef): string {
  return `${runId}/${epoch}`
}

/** Finds runs that nobody cares for, in all tenants, and sees to it that somebody does. */
export class RunSweeper {
  readonly #options: RunSweeperOptions
  /** Claims of the worker that called a model and are not ended, by name, those included that could not be. */
  readonly #called = new Map<string, RunRef & ClaimRef>()
  readonly #asking = new SideBySide<string | null>()
  /** Claims that the last sweep found in the database and not at the worker, by name. */
  #missing: ReadonlySet<string> = new Set()

  constructor(options: RunSweeperOptions) {
    this.#options = options
  }

  /** Notes that the worker called a model by this claim: whoever gives it back leaves what is noted of the call. */
  called({ tenantId, runId, epoch }: RunRef & ClaimRef): void {
    const claim = { tenantId, runId, epoch }
    this.#called.set(nameOf(claim), claim)
  }

  /** Forgets the claim: it is over, and so are its calls, or it is another worker's. */
  forget(claim: ClaimRef): void {
    this.#called.delete(nameOf(claim))
  }

  /**
   * Gives runs of dead workers back to the queue, and those that people had their time to decide about, enters what is left of their calls,
   * and wakes tenants whose runs wait for too long. Throws when the database cannot be reached.
   */
  async sweep(): Promise<void> {
    const { catalog, ports, deadAfter, overdueAfter, isTaking } = this.#options
    await this.#giveBackMissing()
    if (Math.random() >= lookers / (await catalog.livingWorkers(deadAfter))) return
    await this.#mend(await catalog.orphanedRuns(deadAfter), (run) => this.#requeue(run))
    await this.#mend(await catalog.runsWithExpiredRequests(), ({ tenantId, runId }) =>
      expireRequests(this.#ownerOf(tenantId), runId),
    )
    // Of runs that are over or were deleted: no claim enters their calls any more.
    await this.#mend(await catalog.abandonedCalls(deadAfter), ({ tenantId, runId }) =>
      settleCalls(this.#ownerOf(tenantId), runId),
    )
    for (const tenantId of await catalog.tenantsWithOverdueRuns(overdueAfter)) {
      if (isTaking()) await ports.runQueue.wake(tenantId)
    }
  }

  /**
   * Gives back claims that are the worker's by the database alone: the claim was committed and its answer lost, or the run could
   * not be ended since the database was away. One that is being made or ended right now is gone by the next sweep.
   */
  async #giveBackMissing(): Promise<void> {
    const { catalog, worker } = this.#options
    const claimed = await catalog.runsOfWorker(worker.id)
    const missing = claimed.filter(({ runId, epoch }) => worker.claims.get(runId)?.epoch !== epoch)
    const own = [...worker.claims].map(([runId, { epoch }]) => nameOf({ runId, epoch }))
    const known = new Set([...own, ...missing.map(nameOf)])
    const unknown = [...this.#called].flatMap(([name, claim]) => (known.has(name) ? [] : claim))
    await this.#forgetThoseOver(unknown)
    const before = this.#missing
    this.#missing = new Set(missing.map(nameOf))
    const stillMissing = missing.filter((run) => before.has(nameOf(run)))
    await this.#mend(stillMissing, (run) => this.#giveBack(run))
  }

  /** Asks for each of them: a database that was left out before has told nothing of its claims, and they stay known until it does. */
  async #forgetThoseOver(claims: readonly (RunRef & ClaimRef)[]): Promise<void> {
    const { catalog, onError } = this.#options
    const byDatabase = Map.groupBy(claims, ({ tenantId }) => catalog.placements.databaseOf(tenantId))
    const asked = this.#asking.each(byDatabase, async (databaseId, own) => {
      const standings = await catalog.standingOf(own, databaseId)
      const open = new Set(standings.flatMap((standing) => (standing.isUnderWay ? nameOf(standing) : [])))
      for (const claim of own) if (!open.has(nameOf(claim))) this.forget(claim)
    })
    await asked.catch(onError)
  }

  /** One after the other. Where it fails, since a tenant's own database is away, say, that tenant waits for the next sweep alone. */
  async #mend<Lost extends RunRef>(runs: readonly Lost[], mend: (run: Lost) => Promise<void>): Promise<void> {
    for (const own of Map.groupBy(runs, ({ tenantId }) => tenantId).values()) {
      try {
        for (const run of own) await mend(run)
      } catch (error) {
        this.#options.onError(error)
      }
    }
  }

  async #requeue({ tenantId, runId, epoch }: RunRef & ClaimRef): Promise<void> {
    if (await requeue(this.#ownerOf(tenantId).db, { id: runId, epoch })) await this.#options.ports.runQueue.wake(tenantId)
  }

  /** Requeues a run that is the worker's by the database alone. Nobody shall be charged for a call that was noted with it and never made. */
  async #giveBack(run: RunRef & ClaimRef): Promise<void> {
    const { tenantId, runId, epoch } = run
    const isBack = await this.#ownerOf(tenantId).db.$transaction(async (tx) => {
      if (!(await requeue(tx, { id: runId, epoch }))) return false
      if (!this.#called.has(nameOf(run))) await tx.modelCallAttempt.deleteMany({ where: { runId, attempt: epoch } })
      return true
    })
    this.forget(run)
    if (isBack) await this.#options.ports.runQueue.wake(tenantId)
  }

  #ownerOf(tenantId: TenantId) {
    const { data, ports } = this.#options
    return { tenant: { id: tenantId }, db: data.of({ tenantId, userId: null }), ports }
  }
}
