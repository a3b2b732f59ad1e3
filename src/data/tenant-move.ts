import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { UrlCipher } from './database-address.ts'
import { MoveError, reasonOf } from './move-error.ts'
import { bringTariff, prepareTarget } from './placement-target.ts'
import { Placements } from './placements.ts'
import { PlatformDatabase } from './platform-database.ts'
import { raiseWall } from './scoped-query.ts'
import { copyRows, countRowsOf, type Digests, digestRows } from './tenant-copy.ts'
import {
  advance,
  beginMove,
  callOff,
  exclusively,
  findMove,
  findTenant,
  forgetDatabase,
  forgetMove,
  type MovedTenant,
  switchOver,
  type TenantMove,
} from './tenant-move-record.ts'
import {
  admit,
  clear,
  copySettings,
  countRunning,
  depart,
  fence,
  holdsRows,
  inCatalogue,
  readResident,
  unfence,
} from './tenant-residence.ts'

/** All in milliseconds. */
export type MoveTiming = {
  /** How long runs under way are waited for before they are handed back to the queue. Default 60,000. */
  drain: number
  /** How long workers get to notice that their runs were handed back. Default 2,000. */
  settle: number
  /** From the switch until the rows are deleted where they were: longer than any process goes without looking. Default 5,000. */
  grace: number
}

const defaultTiming: MoveTiming = { drain: 60_000, settle: 2_000, grace: 5_000 }

export type MoverOptions = {
  /** How the catalogue's own database is connected to. */
  appUrl: string
  platformUrl: string
  cipher: UrlCipher
  /** Whether a server with known ways past row-level security is refused. */
  strict: boolean
  /** Told, one line at a time, what is being done. */
  onProgress: (message: string) => void
  timing?: Partial<MoveTiming>
}

/** The one table of tenants that the platform adds to. */
const operatorsTable = 'audit_events'

/** Between two looks at what is waited for, in milliseconds. */
const lookEvery = 250

/** Between two lines about a table that is being copied, in milliseconds. */
const tellEvery = 1_000

/**
 * Moves tenants from one database to another. Whatever interrupts a move, it can be repeated and goes on from the phase it was in:
 *
 * - DRAINING: the tenant takes no more changes and no run of it is claimed. Those under way end, or are handed back.
 * - COPYING: the source refuses all writes of the tenant. What the target holds of it is deleted, copied, and compared.
 * - SWITCHED: the tenant is in the target. After a grace, its rows are deleted in the source.
 */
export class TenantMover {
  readonly #options: MoverOptions
  readonly #timing: MoveTiming
  readonly #database: PlatformDatabase
  readonly #placements: Placements

  constructor(options: MoverOptions) {
    const { platformUrl: connectionString, cipher, onProgress } = options
    this.#options = options
    this.#timing = { ...defaultTiming, ...options.timing }
    this.#database = new PlatformDatabase({ connectionString })
    const onError = (error: unknown) => onProgress(reasonOf(error))
    this.#placements = new Placements(this.#database, { cipher, onError })
  }

  /**
   * Moves the tenant, by name or id, to the database that `adminUrl` leads to, or with null to the one that tenants share. Does
   * nothing when it is there. Throws MoveError when that cannot be; the tenant then is as it was, or the message says what to do.
   */
  async place(nameOrId: string, adminUrl: string | null): Promise<void> {
    const { id } = await this.#tenant(nameOrId)
    await exclusively(this.#catalogue, id, async () => {
      const begun = await findMove(this.#catalogue, id)
      if (begun?.phase === 'SWITCHED') await this.#finish(begun)
      const targetId = adminUrl === null ? null : await this.#prepare(adminUrl)
      const move = await this.#begin(await this.#tenant(id), targetId)
      if (!move) return
      await this.#shut(move)
      for (;;) {
        const copied = await this.#copy(move)
        if (copied && (await this.#switch(move, copied))) break
        this.#tell('an operator changed something meanwhile: copying again')
      }
      await this.#finish(move)
    })
  }

  /** Undoes a move that has not been switched: the tenant goes on where it is. Safe to repeat. */
  async abort(nameOrId: string): Promise<void> {
    const { id, name } = await this.#tenant(nameOrId)
    await exclusively(this.#catalogue, id, async () => {
      const move = await findMove(this.#catalogue, id)
      if (!move) throw new MoveError(`${name} is not being moved. There is nothing to undo.`)
      if (move.phase === 'SWITCHED')
        throw new MoveError(`${name} has been moved already. Run the command without --abort to finish, then move it back.`)
      const { source, target } = await this.#ends(move)
      await callOff(this.#catalogue, move)
      if (move.sourceId !== null) await unfence(source, id)
      await this.#placements.repeatStanding(id)
      this.#tell(`${name} goes on where it is; deleting what was copied`)
      await this.#undoCopy(target, move)
      await forgetMove(this.#catalogue, move)
      if (move.targetId !== null) await forgetDatabase(this.#catalogue, move.targetId)
      this.#tell(`undone: ${name} is where it was`)
    })
  }

  /** Who undoes a move may do so since the target is gone for good. Whatever is found there later keeps tenants from being moved there. */
  async #undoCopy(target: pg.Pool, { tenantId, sourceId, targetId }: TenantMove): Promise<void> {
    try {
      await clear(target, tenantId)
      if (targetId !== null) await depart(target, tenantId, sourceId ?? inCatalogue)
    } catch (error) {
      if (targetId === null) throw error
      const { name } = await this.#placements.find(targetId)
      this.#tell(`${name} cannot be cleared (${reasonOf(error)}): what was copied is still there. Drop that database.`)
    }
  }

  async close(): Promise<void> {
    await this.#placements.close()
    await this.#database.close()
  }

  get #catalogue(): pg.Pool {
    return this.#database.pool
  }

  #tell(message: string): void {
    this.#options.onProgress(message)
  }

  async #tenant(nameOrId: string): Promise<MovedTenant> {
    const tenant = await findTenant(this.#catalogue, nameOrId)
    if (!tenant) throw new MoveError(`There is no tenant ${nameOrId}. Give its name or its id.`)
    return tenant
  }

  async #prepare(adminUrl: string): Promise<string> {
    this.#tell('checking the database')
    const { appUrl, platformUrl, cipher, strict, onProgress } = this.#options
    return prepareTarget(adminUrl, {
      ...{ catalogue: this.#catalogue, urls: { appUrl, platformUrl } },
      ...{ cipher, strict, onProgress },
    })
  }

  /** The move that was begun before, or a new one; null when the tenant is there already. */
  async #begin(tenant: MovedTenant, targetId: string | null): Promise<TenantMove | null> {
    const { id, name, databaseId } = tenant
    const begun = await findMove(this.#catalogue, id)
    if (begun && begun.targetId !== targetId) throw new MoveError(await this.#otherTarget(tenant, begun))
    if (!begun && databaseId === targetId) {
      this.#tell(`${name} is there`)
      return null
    }
    const { pool: target } = await this.#placements.at(targetId)
    if (!begun && (await holdsRows(target, id)))
      throw new MoveError(
        `That database holds rows of ${name}, and not from a move that is known. Find out where they come from.`,
      )
    // Also one that is draining: perhaps it was being undone.
    if (begun?.phase !== 'COPYING') await beginMove(this.#catalogue, tenant, targetId)
    this.#tell(begun ? `going on with the move of ${name}, which was ${begun.phase}` : `moving ${name}`)
    return findMove(this.#catalogue, id)
  }

  async #otherTarget({ name }: MovedTenant, { targetId }: TenantMove): Promise<string> {
    const target = targetId === null ? 'the shared database' : (await this.#placements.find(targetId)).name
    return `${name} is on its way to ${target}. Finish that by the command that began it, or undo it with --abort.`
  }

  async #ends({ sourceId, targetId }: TenantMove): Promise<{ source: pg.Pool; target: pg.Pool }> {
    const [source, target] = await Promise.all([this.#placements.at(sourceId), this.#placements.at(targetId)])
    return { source: source.pool, target: target.pool }
  }

  /** Until no run is under way and nobody writes. */
  async #shut(move: TenantMove): Promise<void> {
    const { source } = await this.#ends(move)
    await this.#placements.repeatStanding(move.tenantId)
    for (let attempt = 1; ; attempt++) {
      if (move.phase === 'DRAINING') await this.#drain(source, move)
      await fence(source, move.tenantId)
      // One that was being claimed when the tenant began to move. It is handed back like the others, unless it will not be.
      const missed = await countRunning(source, move.tenantId)
      if (missed === 0 || move.phase !== 'DRAINING' || attempt === 3) break
      await unfence(source, move.tenantId)
    }
    if (move.phase === 'DRAINING') await advance(this.#catalogue, move, 'COPYING')
  }

  async #drain(source: pg.Pool, move: TenantMove): Promise<void> {
    const { drain, settle } = this.#timing
    const deadline = performance.now() + drain
    let told = -1
    for (;;) {
      const running = await countRunning(source, move.tenantId)
      if (running !== told) this.#tell(`draining: ${running} ${running === 1 ? 'run is' : 'runs are'} under way`)
      told = running
      if (running === 0) return
      if (performance.now() > deadline) break
      await delay(lookEvery)
    }
    this.#tell('draining: handing back what is still under way')
    const app = await this.#connect(move.sourceId)
    try {
      await handBack(app, move.tenantId)
    } finally {
      await app.end()
    }
    await delay(settle)
  }

  /** Null when the source was added to meanwhile: the fence binds tenants, and not an operator who changes their standing. */
  async #copy(move: TenantMove): Promise<Digests | null> {
    const { source, target } = await this.#ends(move)
    const { tenantId, sourceId, targetId } = move
    await clear(target, tenantId)
    if (targetId === null) await unfence(target, tenantId)
    else {
      // Again, now that no call is charged any more: the price list may have grown.
      await bringTariff(this.#catalogue, (await this.#placements.find(targetId)).platformUrl)
      await admit(target, this.#catalogue, tenantId)
    }

    const [from, to] = [await this.#connect(sourceId), await this.#connect(targetId)]
    try {
      const digests = await digestRows(from, tenantId)
      await copyRows(from, { app: to, platform: target }, tenantId, this.#teller(digests))
      const copies = await digestRows(to, tenantId)
      if ((await countRowsOf(from, tenantId, operatorsTable)) !== digests[operatorsTable]?.rows) return null
      verify(digests, copies)
      const total = Object.values(digests).reduce((sum, { rows }) => sum + rows, 0)
      this.#tell(`copied and verified ${count(total)} rows of ${Object.keys(digests).length} tables`)
      const { accessVersion, defaultAgentId } = await readResident(source, tenantId)
      await target.query(
        'update tenants set default_agent_id = $2, access_version = greatest(access_version, $3 + 1) where id = $1',
        [tenantId, defaultAgentId, accessVersion],
      )
      await copySettings(source, target, tenantId)
      await advance(this.#catalogue, move, 'COPYING', digests)
      return digests
    } finally {
      await Promise.all([from.end(), to.end()])
    }
  }

  /** Says of each table how far it is, but not of every batch. */
  #teller(digests: Digests): (table: string, rows: number) => void {
    let current = { table: '', since: 0, told: 0 }
    return (table, rows) => {
      const now = performance.now()
      if (current.table !== table) current = { table, since: now, told: now }
      const total = digests[table]?.rows ?? 0
      if (rows < total && now - current.told < tellEvery) return
      current.told = now
      const perSecond = rows < total ? `, ${count(Math.round((rows * 1_000) / Math.max(now - current.since, 1)))} rows/s` : ''
      this.#tell(`copying ${table}: ${count(rows)} of ${count(total)} rows${perSecond}`)
    }
  }

  /** False when the source was added to since it was copied. */
  async #switch(move: TenantMove, copied: Digests): Promise<boolean> {
    const { source } = await this.#ends(move)
    const from = await this.#connect(move.sourceId)
    try {
      const { accessVersion } = await readResident(source, move.tenantId)
      const isStill = async () => (await countRowsOf(from, move.tenantId, operatorsTable)) === copied[operatorsTable]?.rows
      const isSwitched = await switchOver(this.#catalogue, move, accessVersion, isStill)
      if (isSwitched) this.#tell('switched')
      return isSwitched
    } finally {
      await from.end()
    }
  }

  async #finish(move: TenantMove): Promise<void> {
    const { source } = await this.#ends(move)
    const { tenantId, sourceId } = move
    await this.#placements.repeatStanding(tenantId)
    if (sourceId !== null) await depart(source, tenantId, move.targetId ?? inCatalogue)
    this.#tell('waiting until every process knows')
    await delay(this.#timing.grace)
    this.#tell('deleting the rows where they were')
    await clear(source, tenantId)
    await advance(this.#catalogue, move, 'DONE')
    if (sourceId !== null) await forgetDatabase(this.#catalogue, sourceId)
    this.#tell('done')
  }

  /** As `bulkhead_app`. */
  async #connect(databaseId: string | null): Promise<pg.Client> {
    const connectionString = databaseId === null ? this.#options.appUrl : (await this.#placements.find(databaseId)).appUrl
    const client = new pg.Client({ connectionString, connectionTimeoutMillis: 10_000 })
    // A connection that breaks also rejects the query in progress.
    client.on('error', () => undefined)
    await client.connect()
    return client
  }
}

/** Gives the tenant's runs under way back to the queue; whoever is at one finds out by looking, or by writing. */
async function handBack(app: pg.Client, tenantId: string): Promise<void> {
  await app.query('BEGIN')
  await raiseWall(app, { tenantId, userId: null })
  await app.query("update runs set status = 'QUEUED', worker_id = null where tenant_id = $1 and status = 'RUNNING'", [tenantId])
  await app.query('COMMIT')
}

function verify(source: Digests, target: Digests): void {
  for (const [table, { rows, checksum }] of Object.entries(source)) {
    const copy = target[table]
    if (copy?.rows === rows && copy.checksum === checksum) continue
    throw new MoveError(
      `The copy of ${table} differs: ${count(rows)} rows became ${count(copy?.rows ?? 0)}, checksum ${checksum} became ${copy?.checksum}. Run the command again, or undo the move with --abort.`,
    )
  }
}

function count(rows: number): string {
  return rows.toLocaleString('en')
}
