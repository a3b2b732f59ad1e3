import { AsyncLocalStorage } from 'node:async_hooks'
import pg from 'pg'
import { prepareScope, runScoped, type Wall } from './scoped-query.ts'
import { SharedConnections } from './shared-connections.ts'
import { SilenceWatch } from './silence.ts'

/** The wall of the operation in progress, and whether it may share a connection with others. */
export type PoolScope = Wall & {
  shortRead: boolean
  /** Asks for the result before its commit, and is given that of each statement that is sent without a transaction. */
  onCommit?: (committed: Promise<void>) => void
}

export type TenantPoolOptions = {
  connectionString: string
  /** Exclusive connections, for transactions, writes and reads of unknown length. Default 10. */
  max?: number
  /** Pipelined connections that short reads of all tenants share; 0 turns sharing off. Default 2. */
  shared?: number
  /**
   * Whether statements are kept prepared by name. Off for PgBouncer in transaction mode before 1.21 or with its
   * `max_prepared_statements` at 0. Default true.
   */
  namedStatements?: boolean
  /**
   * Bound on one statement, in milliseconds; short reads on shared connections have 2,000 at most. A server that is silent for
   * longer, and another second, is given up, with the connection. 0 leaves it to the server, as PgBouncer needs, which refuses the
   * start-up parameter, and then waits for ever. Default 30,000.
   */
  statementTimeoutMillis?: number
  /** Bound on waiting for a connection, in milliseconds. Default 5,000. */
  connectionTimeoutMillis?: number
  /** Called with the error of a connection that broke while idle. */
  onIdleError?: (error: Error) => void
}

/**
 * How long a connection is kept that nobody uses, in milliseconds. To open another takes as long as a dozen statements, and each of its
 * statements is parsed and planned anew.
 */
const idleTimeoutMillis = 60_000

/** How long to wait for the answer to a statement with this bound, in milliseconds; 0 is for ever. */
function givenUpAfter(statementTimeoutMillis: number): number {
  return statementTimeoutMillis === 0 ? 0 : statementTimeoutMillis + 1_000
}

/** Raised when a statement is sent and no tenant is in scope. */
export class MissingScope extends Error {
  constructor() {
    super('A query was sent outside a tenant scope. Use the client that belongs to the scope.')
    this.name = 'MissingScope'
  }
}

const begun = { command: 'BEGIN', rowCount: null, oid: 0, fields: [], rows: [] } as unknown as pg.QueryResult

/**
 * The pool behind Prisma's adapter. Every statement it sends is behind a tenant's wall, in the same round trip;
 * without a tenant in scope it sends nothing.
 */
export class TenantPool extends pg.Pool {
  readonly namedStatements: boolean
  readonly #scopes = new AsyncLocalStorage<PoolScope>()
  readonly #shared: SharedConnections | null

  constructor(options: TenantPoolOptions) {
    const { connectionString, max = 10, shared = 2, namedStatements = true } = options
    const { statementTimeoutMillis = 30_000, connectionTimeoutMillis = 5_000 } = options
    const onConnect = namedStatements ? prepareScope : undefined
    const bounds = { max, connectionTimeoutMillis, idleTimeoutMillis, statement_timeout: statementTimeoutMillis }
    super({ connectionString, ...bounds, onConnect })
    this.namedStatements = namedStatements
    const silence = new SilenceWatch()
    const sharedTimeoutMillis = Math.min(statementTimeoutMillis, 2_000)
    this.#shared =
      shared === 0
        ? null
        : new SharedConnections({
            connectionString,
            size: shared,
            named: namedStatements,
            statementTimeoutMillis: sharedTimeoutMillis,
            silence,
            silenceMillis: givenUpAfter(sharedTimeoutMillis),
            connectionTimeoutMillis,
          })
    // Of a connection in use the pool hears nothing, and an error that nobody hears ends the process. Its user learns by the statement.
    this.on('connect', (client) => {
      client.on('error', () => undefined)
      silence.over(client, givenUpAfter(statementTimeoutMillis))
    })
    // A pool has ended before its connections have, and a server that stops then is no news.
    this.on('error', (error) => !this.ending && options.onIdleError?.(error))
  }

  /** Runs `work` with `scope` as the wall of every statement it sends. */
  within<T>(scope: PoolScope, work: () => Promise<T>): Promise<T> {
    return this.#scopes.run(scope, work)
  }

  // The signature is the one call that @prisma/adapter-pg makes; pg.Pool's other overloads are not offered.
  override async query(config: unknown): Promise<never> {
    return (await this.#send(config as pg.QueryConfig)) as never
  }

  override connect(): Promise<pg.PoolClient>
  override connect(callback: never): void
  override connect(callback?: unknown): Promise<pg.PoolClient> | undefined {
    if (callback !== undefined) throw new MissingScope()
    return this.#connectScoped()
  }

  override async end(): Promise<void> {
    await Promise.all([super.end(), this.#shared?.end()])
  }

  async #send(config: pg.QueryConfig): Promise<pg.QueryResult> {
    const scope = this.scope()
    if (scope.shortRead && this.#shared) return this.#shared.query(config, scope)
    const client = await super.connect()
    const options = { begin: false, named: this.namedStatements }
    const { promise: result, resolve: onResult } = Promise.withResolvers<pg.QueryResult>()
    const done = runScoped(client, config, scope, scope.onCommit ? { ...options, onResult } : options)
    done.then(
      () => release(client),
      (error) => release(client, isLast(error)),
    )
    if (!scope.onCommit) return done
    scope.onCommit(done.then(() => undefined))
    return Promise.race([result, done])
  }

  async #connectScoped(): Promise<pg.PoolClient> {
    const wall = this.scope()
    const client = await super.connect()
    return new ScopedTransaction(client, wall, this.namedStatements) as unknown as pg.PoolClient
  }

  /** The scope in progress. Throws MissingScope when there is none. */
  scope(): PoolScope {
    const scope = this.#scopes.getStore()
    if (!scope) throw new MissingScope()
    return scope
  }
}

/**
 * A connection taken for one transaction, bound to the wall it was taken under. BEGIN costs no round trip of
 * its own: it is sent with the first statement.
 */
class ScopedTransaction {
  readonly #client: pg.PoolClient
  readonly #wall: Wall
  readonly #named: boolean
  #state: 'idle' | 'begin' | 'open' = 'idle'
  #last: Promise<unknown> = Promise.resolve()

  constructor(client: pg.PoolClient, wall: Wall, named: boolean) {
    this.#client = client
    this.#wall = wall
    this.#named = named
  }

  /** One statement after the other: Prisma sends those of nested reads side by side, and pg will not go on queueing them. */
  query(config: pg.QueryConfig): Promise<pg.QueryResult> {
    const result = this.#last.then(() => this.#send(config))
    this.#last = result.catch(() => undefined)
    return result
  }

  async #send(config: pg.QueryConfig): Promise<pg.QueryResult> {
    const word = config.text.trimStart().split(/\s/, 1)[0]?.toUpperCase()
    switch (word) {
      case 'BEGIN':
        this.#state = 'begin'
        return begun
      case 'COMMIT':
      case 'ROLLBACK':
        return config.text.trim().toUpperCase() === word ? this.#end(word) : this.#client.query(config.text)
      case 'SET':
      case 'SAVEPOINT':
      case 'RELEASE':
        await this.#begin()
        return this.#client.query(config.text)
      default: {
        const begin = this.#state === 'begin'
        this.#state = 'open'
        return runScoped(this.#client, config, this.#wall, { begin, named: this.#named })
      }
    }
  }

  release(error?: Error | boolean): void {
    release(this.#client, error)
  }

  on(event: 'error', listener: (error: Error) => void): this {
    this.#client.on(event, listener)
    return this
  }

  removeListener(event: 'error', listener: (error: Error) => void): this {
    this.#client.removeListener(event, listener)
    return this
  }

  async #begin(): Promise<void> {
    if (this.#state !== 'begin') return
    this.#state = 'open'
    await this.#client.query('BEGIN')
  }

  /** Commits or rolls back. A COMMIT that Postgres turned into a ROLLBACK, because a statement failed, is an error. */
  async #end(word: 'COMMIT' | 'ROLLBACK'): Promise<pg.QueryResult> {
    const sent = this.#state === 'open'
    this.#state = 'idle'
    if (!sent) return begun
    const result = await this.#client.query(word)
    if (word === 'COMMIT' && result.command === 'ROLLBACK') {
      throw new Error('The transaction was rolled back: one of its statements had failed.')
    }
    return result
  }
}

/** Whether the server closes the connection after this error, which it says a moment before it does. */
function isLast(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.severity === 'FATAL'
}

/** Gives a connection back; one that is still inside a transaction is closed instead, so that nothing of it can be reused. */
function release(client: pg.PoolClient, error?: Error | boolean): void {
  client.release(error || client.getTransactionStatus() !== 'I')
}
