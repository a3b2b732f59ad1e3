import { setImmediate } from 'node:timers/promises'
import { PrismaPg } from '@prisma/adapter-pg'
import { PrismaClient } from './generated/client.ts'
import { RawSql } from './raw-sql.ts'
import { statementNames } from './statement-names.ts'
import { restrict, UnscopedOperation } from './tenant-filter.ts'
import type { PoolScope, TenantPool } from './tenant-pool.ts'

export type Forbidden = '$connect' | '$disconnect' | '$on' | '$extends' | '$transaction' | '$queryRawUnsafe' | '$executeRawUnsafe'

export type TransactionOptions = {
  /** Bound on waiting for a connection, in milliseconds. Default 2,000. */
  maxWait?: number
  /** Bound on the whole transaction, in milliseconds. Default 5,000. */
  timeout?: number
  /** Makes all its statements see one moment. Default: each sees what was committed before it. */
  isolationLevel?: 'RepeatableRead'
}

/** What test suites switch off to see that the other wall holds alone. Never set in the product. */
export type WallSwitches = { filter?: boolean }

/** What is asked of a client, or of a transaction of one. */
export type PrismaOperations = Omit<PrismaClient, Forbidden>

/** What carries raw statements out: a transaction of the client, or, outside of one, not the client. */
export type RawOperations = Pick<PrismaOperations, '$queryRaw' | '$executeRaw'>
type Transacting = { $transaction<T>(work: (tx: PrismaOperations) => Promise<T>, options?: TransactionOptions): Promise<T> }

/**
 * One database that holds tenants' rows, behind both walls. A Prisma client extension injects the tenant into every operation,
 * and the pool sets it for every statement. Both read it from the scope in progress; without one, neither lets anything through.
 */
export class TenantDatabase {
  readonly #pool: TenantPool
  readonly #client: PrismaOperations & Transacting
  readonly #raw: RawOperations
  readonly #closeRaw: () => Promise<void>
  readonly #disconnect: () => Promise<void>
  #underWay = 0
  #onIdle: (() => void) | null = null

  constructor(pool: TenantPool, { filter = true }: WallSwitches = {}) {
    const naming = pool.namedStatements ? { statementNameGenerator: statementNames() } : {}
    const prisma = new PrismaClient({ adapter: new PrismaPg(pool, naming), errorFormat: 'minimal' })
    this.#pool = pool
    const raw = new RawSql(pool, naming)
    const [$queryRaw, $executeRaw] = [raw.query.bind(raw), raw.execute.bind(raw)]
    this.#raw = { $queryRaw, $executeRaw } as unknown as RawOperations
    this.#closeRaw = () => raw.close()
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

  get client(): PrismaOperations & Transacting {
    return this.#client
  }

  get raw(): RawOperations {
    return this.#raw
  }

  /** Runs `work` behind the wall of `scope`. Awaited inside: a Prisma promise does nothing before it is awaited. */
  async within<T>(scope: PoolScope, work: () => PromiseLike<T>): Promise<T> {
    this.#underWay += 1
    try {
      return await this.#pool.within(scope, async () => await work())
    } finally {
      this.#underWay -= 1
      if (this.#underWay === 0) this.#onIdle?.()
    }
  }

  /** Lets what is under way come to its end, as some things are that nobody waits for, such as telling admins of a quota. */
  async close(): Promise<void> {
    while (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
      // It may go on with the next statement.
      await setImmediate()
    }
    await Promise.all([this.#disconnect(), this.#closeRaw()])
    await this.#pool.end()
  }
}

/** The operations that name no model. */
export const rawOperations: ReadonlySet<string> = new Set(['$queryRaw', '$executeRaw'])
