import { PrismaPg } from '@prisma/adapter-pg'
import { PrismaClient } from './generated/client.ts'
import { dataModel } from './generated/data-model.ts'
import type { Wall } from './scoped-query.ts'
import { isShortRead } from './short-read.ts'
import { statementNames } from './statement-names.ts'
import { plainWhere, restrict, UnscopedOperation } from './tenant-filter.ts'
import type { TenantPool } from './tenant-pool.ts'

type Forbidden = '$connect' | '$disconnect' | '$on' | '$extends' | '$transaction' | '$queryRawUnsafe' | '$executeRawUnsafe'

/** One tenant's rows, inside an interactive transaction. */
export type TenantTransaction = Omit<PrismaClient, Forbidden>

export type TransactionOptions = {
  /** Bound on waiting for a connection, in milliseconds. Default 2,000. */
  maxWait?: number
  /** Bound on the whole transaction, in milliseconds. Default 5,000. */
  timeout?: number
}

/**
 * One tenant's rows, and for an end user only that user's. Bound to its tenant when it is made: an operation starts when it
 * is called, so wherever it is awaited it is this tenant's. Operations the filter does not know throw UnscopedOperation.
 */
export type TenantDb = TenantTransaction & {
  /** Runs `work` in one transaction. Whatever it throws rolls everything back. */
  $transaction<T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions): Promise<T>
}

/** What test suites switch off to see that the other wall holds alone. Never set in the product. */
export type WallSwitches = { filter?: boolean }

/**
 * The tenants' data, behind both walls. A Prisma client extension injects the tenant into every operation, and the pool sets
 * it for every statement. Both read it from the scope in progress; without one, neither lets anything through.
 */
export class TenantData {
  readonly #pool: TenantPool
  readonly #client: PrismaOperations & Transacting
  readonly #disconnect: () => Promise<void>

  constructor(pool: TenantPool, { filter = true }: WallSwitches = {}) {
    const adapter = new PrismaPg(pool, pool.namedStatements ? { statementNameGenerator: statementNames() } : {})
    const prisma = new PrismaClient({ adapter, errorFormat: 'minimal' })
    this.#pool = pool
    this.#disconnect = () => prisma.$disconnect()
    const extended = prisma.$extends({
      name: 'tenant scope',
      query: {
        $allOperations({ model, operation, args, query }) {
          const wall = pool.scope()
          if (model === undefined) {
            if (!rawOperations.has(operation)) throw new UnscopedOperation(operation)
            return query(args)
          }
          return query(filter ? (restrict(model, operation, args, wall) as typeof args) : args)
        },
      },
    })
    // Extended clients have types of their own, as deep as the data model; what is used of this one is the same.
    this.#client = extended as unknown as PrismaOperations & Transacting
  }

  /** The rows behind `wall`. Cheap: nothing is kept for it. */
  of(wall: Wall): TenantDb {
    // To Postgres the empty user is no user, which is staff.
    if (wall.userId === '') throw new UnscopedOperation('Acting as the empty user')
    const transact = async <T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions) => {
      if (typeof work !== 'function') throw new UnscopedOperation('$transaction with a list')
      return this.#within(wall, () => this.#client.$transaction((tx) => work(this.#bind(wall, tx)), options))
    }
    return this.#bind(wall, this.#client, { $transaction: transact })
  }

  async close(): Promise<void> {
    await this.#disconnect()
    await this.#pool.end()
  }

  /**
   * What of `client` can be reached from behind `wall`: its models, raw SQL as tagged templates, and `more`. Binding is left
   * to this proxy, since extending the client anew for each scope and transaction would take a tenth of a read's time.
   */
  #bind(wall: Wall, client: PrismaOperations, more: object = {}): TenantDb {
    const open: Record<PropertyKey, unknown> = { ...more }
    const get = (_: object, property: string | symbol) => {
      if (!Object.hasOwn(open, property)) open[property] = this.#reach(wall, client, property)
      return open[property]
    }
    return new Proxy({}, { get }) as TenantDb
  }

  #reach(wall: Wall, client: PrismaOperations, property: string | symbol): unknown {
    const target = Reflect.get(client, property)
    const model = modelOf.get(property)
    if (model !== undefined) return this.#bindModel(wall, model, target as Delegate)
    if (typeof property === 'symbol' || !property.startsWith('$')) return undefined
    if (!rawOperations.has(property)) throw new UnscopedOperation(property)
    return (...statement: unknown[]) =>
      this.#within(wall, async () => await Reflect.apply(target as Operation, client, statement))
  }

  #bindModel(wall: Wall, model: string, delegate: Delegate): object {
    const get = (_: object, operation: string | symbol) => {
      if (typeof operation === 'symbol' || typeof delegate[operation] !== 'function') return undefined
      const send = (name: string, args: unknown) =>
        this.#within(wall, () => (delegate[name] as Operation)(args), isShortRead(model, name, args))
      const unbatched = unbatchedOperations[operation]
      if (unbatched === undefined) return (args: unknown) => send(operation, args)
      return (args: { where?: unknown } = {}) => send(unbatched, { ...args, where: plainWhere(model, args.where) })
    }
    return new Proxy({}, { get })
  }

  /** Awaited inside: a Prisma promise does nothing before it is awaited. */
  #within<T>({ tenantId, userId }: Wall, work: () => PromiseLike<T>, shortRead = false): Promise<T> {
    return this.#pool.within({ tenantId, userId, shortRead }, async () => await work())
  }
}

type PrismaOperations = Omit<PrismaClient, Forbidden>
type Transacting = { $transaction<T>(work: (tx: PrismaOperations) => Promise<T>, options?: TransactionOptions): Promise<T> }
type Operation = (...args: unknown[]) => PromiseLike<unknown>
type Delegate = Record<string, Operation>

const rawOperations: ReadonlySet<string> = new Set(['$queryRaw', '$executeRaw'])

/** Prisma batches `findUnique` calls of one tick and sends the batch in the first caller's context. */
const unbatchedOperations: Readonly<Record<string, string>> = { findUnique: 'findFirst', findUniqueOrThrow: 'findFirstOrThrow' }

/** The models by the names that the client has for them. */
const modelOf: ReadonlyMap<PropertyKey, string> = new Map(
  Object.keys(dataModel).map((model) => [model.charAt(0).toLowerCase() + model.slice(1), model]),
)
