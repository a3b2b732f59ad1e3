import { PrismaPg } from '@prisma/adapter-pg'
import { Prisma, PrismaClient } from './generated/client.ts'
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
 * One tenant's rows, and for an end user only that user's. Bound to its tenant when it is made, so that a query
 * built here and awaited anywhere else is still this tenant's. Operations the filter does not know throw
 * UnscopedOperation.
 */
export type TenantDb = TenantTransaction & {
  /** Runs `work` in one transaction. Whatever it throws rolls everything back. */
  $transaction<T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions): Promise<T>
}

/** What test suites switch off to see that the other wall holds alone. Never set in the product. */
export type WallSwitches = { filter?: boolean }

/** The tenants' data, behind both walls. */
export class TenantData {
  readonly #pool: TenantPool
  readonly #client: PrismaClient
  readonly #filtering: boolean

  constructor(pool: TenantPool, switches: WallSwitches = {}) {
    this.#pool = pool
    this.#filtering = switches.filter ?? true
    const adapter = new PrismaPg(pool, pool.namedStatements ? { statementNameGenerator: statementNames() } : {})
    this.#client = new PrismaClient({ adapter, errorFormat: 'minimal' })
  }

  /** The rows behind `wall`. Cheap: nothing is kept for it. */
  of(wall: Wall): TenantDb {
    // To Postgres the empty user is no user, which is staff.
    if (wall.userId === '') throw new UnscopedOperation('Acting as the empty user')
    const scoped = this.#client.$extends({
      model: {
        $allModels: {
          // Prisma batches findUnique calls of one tick and sends the batch in the first caller's context.
          findUnique(args: { where: unknown }) {
            return unbatched(this).findFirst(args)
          },
          findUniqueOrThrow(args: { where: unknown }) {
            return unbatched(this).findFirstOrThrow(args)
          },
        },
      },
      query: { $allOperations: (call) => this.#run(call, wall) },
    })
    return guard(scoped, async (work, options) => {
      if (typeof work !== 'function') throw new UnscopedOperation('$transaction with a list')
      return this.#pool.within({ ...wall, shortRead: false }, () => scoped.$transaction((tx) => work(guard(tx)), options))
    })
  }

  async close(): Promise<void> {
    await this.#client.$disconnect()
    await this.#pool.end()
  }

  #run({ model, operation, args, query }: Call, wall: Wall): Promise<unknown> {
    if (model === undefined) {
      if (operation !== '$queryRaw' && operation !== '$executeRaw') throw new UnscopedOperation(operation)
      return this.#pool.within({ ...wall, shortRead: false }, async () => await query(args))
    }
    const restricted = this.#filtering ? restrict(model, operation, args, wall) : args
    const shortRead = isShortRead(model, operation, args)
    // Awaited inside: a Prisma promise does nothing before it is awaited.
    return this.#pool.within({ ...wall, shortRead }, async () => await query(restricted))
  }
}

type Call = { model?: string; operation: string; args: unknown; query: (args: never) => PromiseLike<unknown> } & {
  query: (args: unknown) => PromiseLike<unknown>
}

type Finder = { findFirst(args: unknown): Promise<unknown>; findFirstOrThrow(args: unknown): Promise<unknown> }

function unbatched(model: unknown): Finder {
  const context = Prisma.getExtensionContext(model) as unknown as Finder & { $name: string }
  const plain = (args: unknown) => {
    const { where, ...rest } = (args ?? {}) as { where?: unknown }
    return { ...rest, where: plainWhere(context.$name, where) }
  }
  return {
    findFirst: (args) => context.findFirst(plain(args)),
    findFirstOrThrow: (args) => context.findFirstOrThrow(plain(args)),
  }
}

type Transact = <T>(work: (tx: TenantTransaction) => Promise<T>, options?: TransactionOptions) => Promise<T>

const forbidden: ReadonlySet<PropertyKey> = new Set<Forbidden>([
  '$connect',
  '$disconnect',
  '$on',
  '$extends',
  '$transaction',
  '$queryRawUnsafe',
  '$executeRawUnsafe',
])

/** Hides what would leave the scope. `transact` takes the place of Prisma's own `$transaction`. */
function guard(client: object, transact?: Transact): TenantDb {
  return new Proxy(client, {
    get(target, property) {
      if (property === '$transaction' && transact) return transact
      if (forbidden.has(property)) throw new UnscopedOperation(String(property))
      return Reflect.get(target, property)
    },
  }) as TenantDb
}
