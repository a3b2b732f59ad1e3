import { isFenced } from './fence.ts'
import type { PrismaClient } from './generated/client.ts'
import { dataModel } from './generated/data-model.ts'
import type { Wall } from './scoped-query.ts'
import { isShortRead } from './short-read.ts'
import {
  type Forbidden,
  type PrismaOperations,
  type RawOperations,
  rawOperations,
  TenantDatabase,
  type TransactionOptions,
  type WallSwitches,
} from './tenant-database.ts'
import { plainWhere, UnscopedOperation } from './tenant-filter.ts'
import type { PoolScope, TenantPool } from './tenant-pool.ts'

/** One tenant's rows, inside an interactive transaction. */
export type TenantTransaction = Omit<PrismaClient, Forbidden>

/**
 * One tenant's rows, and for an end user only that user's. Bound to its tenant when it is made: an operation starts when it
 * is called, so wherever it is awaited it is this tenant's. Operations the filter does not know throw UnscopedOperation.
 */
export type TenantDb = TenantTransaction & {
  /** Runs `work` in one transaction. Whatever it throws rolls everything back. */
  $transaction<T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions): Promise<T>
  /**
   * `$queryRaw` for what is sure to be short, as `isShortRead` has it: it reads, names its rows by key, and bounds how many there are.
   * Shares a connection with others, and may be sent twice.
   */
  $queryShort: PrismaClient['$queryRaw']
  /**
   * `$queryRaw` whose rows are there before the statement is committed, which waits for the disk. They can be told of, and acted upon, only once
   * `committed` has resolved; when it rejects, they may or may not be stored.
   */
  $queryBeforeCommit: <Rows>(strings: TemplateStringsArray, ...values: unknown[]) => Promise<Uncommitted<Rows>>
}

/** What a statement answered that is being committed. */
export type Uncommitted<Rows> = { rows: Rows; committed: Promise<void> }

/** Where the tenants are that have a database of their own. */
export type Elsewhere = {
  /** The database that holds the tenant's rows; null for the one that most are in. */
  databaseOf(tenantId: string): string | null
  /** A pool of that database. Throws DatabaseAway when it is not to be had. */
  openPool(databaseId: string): Promise<TenantPool>
  /** Looks again where they are: one of them was not where it was believed to be. Never throws. */
  refresh(): Promise<void>
}

/** The tenants' data, behind both walls, whichever database it is in. */
export class TenantData {
  readonly #pooled: TenantDatabase
  readonly #elsewhere: Elsewhere | null
  readonly #switches: WallSwitches
  readonly #opened = new Map<string, Promise<TenantDatabase>>()

  constructor(pool: TenantPool, { elsewhere = null, ...switches }: WallSwitches & { elsewhere?: Elsewhere | null } = {}) {
    this.#pooled = new TenantDatabase(pool, switches)
    this.#elsewhere = elsewhere
    this.#switches = switches
  }

  /**
   * The rows behind `wall`. Cheap: nothing is kept for it. Each operation, and each transaction as a whole, goes to the database
   * that the tenant is in when it starts.
   */
  of(wall: Wall): TenantDb {
    // To Postgres the empty user is no user, which is staff.
    if (wall.userId === '') throw new UnscopedOperation('Acting as the empty user')
    const send: Send = (work, how) => this.#send(wall, (database) => work(database.client, database.raw), how)
    const $transaction = async <T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions) => {
      if (typeof work !== 'function') throw new UnscopedOperation('$transaction with a list')
      return this.#send(wall, (database) =>
        database.client.$transaction((tx) => {
          const sendInside: Send = (operation, how) => within(database, wall, () => operation(tx, tx), how)
          return work(bind(sendInside, tx))
        }, options),
      )
    }
    const $queryBeforeCommit = <Rows>(...statement: Parameters<TenantDb['$queryBeforeCommit']>) =>
      beforeCommit<Rows>(send, statement)
    return bind(send, this.#pooled.client, { $transaction, $queryBeforeCommit })
  }

  /** Looks again where tenants are: what is found in a database says that its tenant is not there. */
  async refresh(): Promise<void> {
    await this.#elsewhere?.refresh()
  }

  async close(): Promise<void> {
    const opened = await Promise.allSettled(this.#opened.values())
    const databases = opened.flatMap((opening) => (opening.status === 'fulfilled' ? opening.value : []))
    await Promise.all([this.#pooled, ...databases].map((database) => database.close()))
  }

  async #send<T>(wall: Wall, work: (database: TenantDatabase) => PromiseLike<T>, how?: How): Promise<T> {
    const elsewhere = this.#elsewhere?.databaseOf(wall.tenantId) ?? null
    const database = elsewhere === null ? this.#pooled : await this.#open(elsewhere)
    try {
      return await within(database, wall, () => work(database), how)
    } catch (error) {
      // Perhaps it has moved. Whoever asks again finds it.
      if (isFenced(error)) void this.#elsewhere?.refresh()
      throw error
    }
  }

  #open(databaseId: string): Promise<TenantDatabase> {
    const known = this.#opened.get(databaseId)
    if (known) return known
    const opening = (this.#elsewhere as Elsewhere).openPool(databaseId).then((pool) => new TenantDatabase(pool, this.#switches))
    this.#opened.set(databaseId, opening)
    // The next operation tries again.
    opening.catch(() => this.#opened.delete(databaseId))
    return opening
  }
}

/** Sends an operation to a client of the database that the tenant is in, behind the tenant's wall. */
type Send = <T>(work: (client: PrismaOperations, raw: RawOperations) => PromiseLike<T>, how?: How) => Promise<T>
type How = Partial<Omit<PoolScope, keyof Wall>>
type Operation = (...args: unknown[]) => PromiseLike<unknown>
type Delegate = Record<string, Operation>

function within<T>(
  database: TenantDatabase,
  { tenantId, userId }: Wall,
  work: () => PromiseLike<T>,
  { shortRead = false, ...how }: How = {},
): Promise<T> {
  return database.within({ tenantId, userId, shortRead, ...how }, work)
}

async function beforeCommit<Rows>(send: Send, statement: unknown[]): Promise<Uncommitted<Rows>> {
  const { promise: committed, resolve: onCommit } = Promise.withResolvers<void>()
  // Who waits for the rows hears of it as well.
  committed.catch(() => undefined)
  const rows = await send((_client, raw) => Reflect.apply(raw.$queryRaw as unknown as Operation, raw, statement), { onCommit })
  return { rows: rows as Rows, committed }
}

/**
 * What can be reached by `send`: the models of a client such as `shape`, raw SQL as tagged templates, and `more`. Binding is left
 * to this proxy, since extending the client anew for each scope and transaction would take a tenth of a read's time.
 */
function bind(send: Send, shape: PrismaOperations, more: object = {}): TenantDb {
  const open: Record<PropertyKey, unknown> = { ...more }
  const get = (_: object, property: string | symbol) => {
    if (!Object.hasOwn(open, property)) open[property] = reach(send, shape, property)
    return open[property]
  }
  return new Proxy({}, { get }) as TenantDb
}

function reach(send: Send, shape: PrismaOperations, property: string | symbol): unknown {
  const model = modelOf.get(property)
  if (model !== undefined) return bindModel(send, model, (client) => Reflect.get(client, property) as Delegate, shape)
  if (typeof property === 'symbol' || !property.startsWith('$')) return undefined
  const isShort = property === '$queryShort'
  const operation = isShort ? '$queryRaw' : property
  if (!rawOperations.has(operation)) throw new UnscopedOperation(property)
  return (...statement: unknown[]) =>
    send((_client, raw) => Reflect.apply(Reflect.get(raw, operation) as Operation, raw, statement), { shortRead: isShort })
}

function bindModel(
  send: Send,
  model: string,
  delegateOf: (client: PrismaOperations) => Delegate,
  shape: PrismaOperations,
): object {
  const delegate = delegateOf(shape)
  const get = (_: object, operation: string | symbol) => {
    if (typeof operation === 'symbol' || typeof delegate[operation] !== 'function') return undefined
    const call = (name: string, args: unknown) =>
      send((client) => (delegateOf(client)[name] as Operation)(args), { shortRead: isShortRead(model, name, args) })
    const unbatched = unbatchedOperations[operation]
    if (unbatched === undefined) return (args: unknown) => call(operation, args)
    return (args: { where?: unknown } = {}) => call(unbatched, { ...args, where: plainWhere(model, args.where) })
  }
  return new Proxy({}, { get })
}

/** Prisma batches `findUnique` calls of one tick and sends the batch in the first caller's context. */
const unbatchedOperations: Readonly<Record<string, string>> = { findUnique: 'findFirst', findUniqueOrThrow: 'findFirstOrThrow' }

/** The models by the names that the client has for them. */
const modelOf: ReadonlyMap<PropertyKey, string> = new Map(
  Object.keys(dataModel).map((model) => [model.charAt(0).toLowerCase() + model.slice(1), model]),
)
