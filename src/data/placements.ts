import { setTimeout as delay } from 'node:timers/promises'
import { type PlacedDatabase, readDatabases, type UrlCipher } from './database-address.ts'
import type { Plan, PrismaClient, TenantStatus } from './generated/client.ts'
import { DatabaseAway } from './outage.ts'
import { PlatformDatabase } from './platform-database.ts'

export type PlacementsOptions = {
  /** Reads the databases' URLs. Null: no tenant is elsewhere, and one that is cannot be reached. */
  cipher: UrlCipher | null
  /** Given what goes wrong with a single database, and in the background. The others go on. */
  onError: (error: unknown) => void
}

/** What the catalogue's row decides, and a tenant's row elsewhere repeats. */
type Standing = { name: string; plan: Plan; status: TenantStatus }
type Placed = { databaseId: string; standing: string }
type PlacedRow = Standing & { id: string; databaseId: string }

/** Between two looks for tenants that were moved, in milliseconds. */
const pollEvery = 500

/** Connections of the platform to one database of this kind. */
const connections = 2

/** How long one database among several is waited for, in milliseconds. */
const patience = 5_000

/**
 * Which tenants are in a database other than the catalogue's, and that database as the platform sees it. Looking a tenant up is
 * reading a map. It may be half a second old, and nothing goes wrong by that: the database that a tenant was moved away from
 * refuses to write its rows, and its row there says that it is gone.
 */
export class Placements {
  readonly #catalogue: PlatformDatabase
  readonly #options: PlacementsOptions
  readonly #opened = new Map<string, Promise<PlatformDatabase>>()
  #placed: ReadonlyMap<string, Placed> = new Map()
  /** Tenants whose standing may not be repeated yet where they are. */
  readonly #unrepeated = new Set<string>()
  #look: Promise<void> = Promise.resolve()
  #nextLook: Promise<void> | null = null
  #repeating: Promise<void> | null = null
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(catalogue: PlatformDatabase, options: PlacementsOptions) {
    this.#catalogue = catalogue
    this.#options = options
  }

  /** Learns where the tenants are, and goes on learning until `close`. Throws when the catalogue cannot be read. */
  async start(): Promise<void> {
    await this.#load()
    this.#poll()
  }

  /** The database that holds the tenant's rows; null for the catalogue's own. */
  databaseOf(tenantId: string): string | null {
    return this.#placed.get(tenantId)?.databaseId ?? null
  }

  /** Looks again where the tenants are. Never throws: without the catalogue, what was known stays. */
  refresh(): Promise<void> {
    // A look that is under way may have been too early: whoever asks meanwhile shares the next.
    this.#nextLook ??= this.#look.then(() => {
      this.#nextLook = null
      this.#look = this.#load().catch(this.#options.onError)
      return this.#look
    })
    return this.#nextLook
  }

  /** Every database that may hold rows of the tenant, the catalogue's own first, as the catalogue has it now. */
  async homesOf(tenantId: string): Promise<PlatformDatabase[]> {
    const { rows } = await this.#catalogue.pool.query<{ id: string }>(
      `select database_id as id from tenants where id = $1 and database_id is not null
       union select unnest(array[source_id, target_id]) from tenant_moves where id = $1 and phase <> 'DONE'`,
      [tenantId],
    )
    return Promise.all([null, ...rows.flatMap(({ id }) => id ?? [])].map((id) => this.at(id)))
  }

  /** The database with this id; null is the catalogue's own. Throws DatabaseAway when it is not to be had. */
  async at(databaseId: string | null): Promise<PlatformDatabase> {
    if (databaseId === null) return this.#catalogue
    const known = this.#opened.get(databaseId)
    if (known) return known
    const opening = this.find(databaseId).then(({ platformUrl }) => this.#open(platformUrl))
    this.#opened.set(databaseId, opening)
    // The next one who asks tries again.
    opening.catch(() => this.#opened.delete(databaseId))
    return opening
  }

  /** The database with this id. Throws DatabaseAway when it is unknown, or its URLs cannot be read. */
  async find(databaseId: string): Promise<PlacedDatabase> {
    const [database] = await this.#read(databaseId).catch((error) => {
      throw new DatabaseAway(error)
    })
    if (!database) throw new DatabaseAway(new Error('The catalogue does not know the database of a tenant.'))
    return database
  }

  /** Every database besides the catalogue's own. Throws when an URL cannot be read. */
  list(): Promise<PlacedDatabase[]> {
    return this.#read(null)
  }

  /**
   * Asks each database that holds tenants, all at once. What it answers of tenants that are not there, such as one that is just
   * being moved, is left out. One that does not answer is reported and left out; without the catalogue's own, throws.
   */
  async everywhere<T extends { tenantId: string }>(ask: (client: PrismaClient) => Promise<T[]>): Promise<T[]> {
    const elsewhere = new Set([...this.#placed.values()].map(({ databaseId }) => databaseId))
    const answers = await Promise.all([ask(this.#catalogue.client), ...[...elsewhere].map((id) => this.#askOne(id, ask))])
    return [null, ...elsewhere].flatMap((databaseId, index) =>
      (answers[index] ?? []).filter(({ tenantId }) => this.databaseOf(tenantId) === databaseId),
    )
  }

  /** Does `work` in each database but the catalogue's, also where no tenant has come yet, all at once. Throws what one of them throws, when all are done. */
  async forEachElsewhere(work: (client: PrismaClient) => Promise<void>): Promise<void> {
    const elsewhere = this.#options.cipher ? await this.list() : []
    const done = await Promise.allSettled(elsewhere.map(async ({ id }) => work((await this.at(id)).client)))
    for (const each of done) if (each.status === 'rejected') throw each.reason
  }

  /** Repeats what the catalogue says of the tenant in the database that it is in. Does nothing when that is the catalogue's own. */
  async repeatStanding(tenantId: string): Promise<void> {
    const { rows } = await this.#catalogue.pool.query<PlacedRow>(
      `select id, database_id as "databaseId", name, plan, status from tenants where id = $1 and database_id is not null`,
      [tenantId],
    )
    for (const row of rows) await this.#repeat(row)
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#nextLook
    await this.#look
    await this.#repeating
    const opened = await Promise.allSettled(this.#opened.values())
    await Promise.all(opened.map(async (opening) => opening.status === 'fulfilled' && opening.value.close()))
  }

  #poll(): void {
    this.#timer = setTimeout(async () => {
      await this.refresh()
      if (!this.#closed) this.#poll()
    }, pollEvery)
  }

  async #load(): Promise<void> {
    // Few tenants were ever moved, and those that are elsewhere are among them.
    const { rows } = await this.#catalogue.pool.query<PlacedRow>(
      `select t.id, t.database_id as "databaseId", t.name, t.plan, t.status
       from tenant_moves m join tenants t on t.id = m.id where t.database_id is not null`,
    )
    const before = this.#placed
    const placed = rows.map((row) => [row.id, { databaseId: row.databaseId, standing: standingOf(row) }] as const)
    this.#placed = new Map(placed)
    for (const { id } of rows) {
      if (!isSame(before.get(id), this.#placed.get(id))) this.#unrepeated.add(id)
    }
    this.#repeating ??= this.#repeatAll().finally(() => {
      this.#repeating = null
    })
  }

  /** Whoever changed a standing may have ended before it was repeated. */
  async #repeatAll(): Promise<void> {
    const repeat = async (tenantId: string) => {
      this.#unrepeated.delete(tenantId)
      await this.repeatStanding(tenantId).catch((error) => {
        this.#unrepeated.add(tenantId)
        this.#options.onError(error)
      })
    }
    await Promise.all([...this.#unrepeated].map(repeat))
  }

  async #repeat({ id, databaseId, name, plan, status }: PlacedRow): Promise<void> {
    const { pool } = await this.at(databaseId)
    await pool.query(
      `update tenants set name = $2, plan = $3, status = $4, access_version = access_version + (status <> $4)::int,
         limits_version = limits_version + (plan <> $3::plan)::int
       where id = $1 and database_id is null and (name, plan, status) is distinct from ($2, $3::plan, $4::tenant_status)`,
      [id, name, plan, status],
    )
  }

  async #askOne<T>(databaseId: string, ask: (client: PrismaClient) => Promise<T[]>): Promise<T[]> {
    const impatience = new AbortController()
    try {
      const late = delay(patience, undefined, { signal: impatience.signal }).then(() => {
        throw new DatabaseAway(new Error(`It did not answer in ${patience} ms.`))
      })
      return await Promise.race([this.at(databaseId).then(({ client }) => ask(client)), late])
    } catch (error) {
      this.#options.onError(error)
      return []
    } finally {
      impatience.abort()
    }
  }

  async #read(databaseId: string | null): Promise<PlacedDatabase[]> {
    const { cipher } = this.#options
    if (!cipher) throw new Error('There is no key to read the URLs of databases with.')
    return readDatabases(this.#catalogue.pool, cipher, databaseId)
  }

  #open(connectionString: string): PlatformDatabase {
    return new PlatformDatabase({ connectionString, max: connections, onIdleError: this.#options.onError })
  }
}

function standingOf({ name, plan, status }: Standing): string {
  return JSON.stringify([name, plan, status])
}

function isSame(one: Placed | undefined, other: Placed | undefined): boolean {
  return one?.databaseId === other?.databaseId && one?.standing === other?.standing
}
