import pg from 'pg'

/** Whose rows a statement may touch. An absent user means the tenant's staff. */
export type Wall = { tenantId: string; userId: string | null }

/** What pg's protocol connection offers and its types leave out. */
type WireConnection = {
  parse(message: { text: string; name?: string }): void
  bind(message: { statement?: string; values?: unknown[] }): void
  describe(message: object): void
  execute(message: object): void
  flush(): void
  sync(): void
}

type RowDescription = { fields: readonly unknown[] }

type WireQuery = {
  name?: string
  hasBeenParsed(connection: WireConnection): boolean
  prepare(connection: WireConnection): void
  handleRowDescription(message: RowDescription): void
  handleCommandComplete(message: unknown, connection: WireConnection): void
  readonly _results: pg.QueryResult
  /** What went wrong with reading the rows, which is told of once the connection is ready. */
  readonly _canceledDueToError: unknown
}

const wireQuery = pg.Query.prototype as unknown as WireQuery

type Statement = { name: string; text: string; values: string[] }

/**
 * How the tenant reaches the session, in this one place. The settings are local to the transaction; the statement
 * returns no row. Both settings are always written, so that nothing of an earlier statement can stay.
 */
function wallStatement({ tenantId, userId }: Wall): Statement {
  const text = "select where set_config('app.current_tenant', $1, true) || set_config('app.current_user', $2, true) is null"
  return { name: 'bulkhead_wall', text, values: [tenantId, userId ?? ''] }
}

const beginStatement: Statement = { name: 'bulkhead_begin', text: 'BEGIN', values: [] }

/** Puts the rest of the transaction in progress behind the wall, for those who send a tenant's statements without a pool. */
export async function raiseWall(client: pg.ClientBase, wall: Wall): Promise<void> {
  const { text, values } = wallStatement(wall)
  await client.query(text, values)
}

/**
 * What the named statements of each connection answer, so that it is asked for once: with many columns, to describe them takes both sides
 * longer than to send the row. Null for no rows. Postgres refuses to execute a statement whose columns are not what they were.
 */
const descriptions = new WeakMap<WireConnection, Map<string, RowDescription | null>>()

function descriptionsOf(connection: WireConnection): Map<string, RowDescription | null> {
  const known = descriptions.get(connection) ?? new Map()
  descriptions.set(connection, known)
  return known
}

function withoutDescribe(connection: WireConnection): WireConnection {
  return Object.create(connection, { describe: { value: () => undefined } })
}

/** Has the rows sent before Postgres commits, which is what the Sync makes it do. */
function flushedBeforeSync(connection: WireConnection): WireConnection {
  const sync = () => {
    connection.flush()
    connection.sync()
  }
  return Object.create(connection, { sync: { value: sync } })
}

export type ScopedQueryOptions = {
  /** Opens an explicit transaction in the same round trip. */
  begin: boolean
  /**
   * Whether the connection holds the two statements above under their names. They must be prepared beforehand:
   * pg credits every ParseComplete to the query it is running.
   */
  named: boolean
  /** Given the result as soon as it is there, before the statement is committed. */
  onResult?: (result: pg.QueryResult) => void
}

/**
 * A query behind its tenant's wall, in one network round trip. In the extended protocol all that is executed
 * before one Sync is one implicit transaction (PostgreSQL manual, "Extended Query"), so the settings hold for
 * exactly this statement, and for the whole transaction when `begin` opened one.
 */
class ScopedQuery extends pg.Query {
  readonly #wall: Wall
  readonly #options: ScopedQueryOptions
  #skip: number
  #asksForColumns = false
  #description: RowDescription | null = null

  constructor(config: pg.QueryConfig, wall: Wall, options: ScopedQueryOptions) {
    super({ ...config, queryMode: 'extended' } as pg.QueryConfig)
    this.#wall = wall
    this.#options = options
    this.#skip = options.begin ? 2 : 1
  }

  prepare(connection: WireConnection): void {
    if (this.#options.begin) this.#execute(connection, beginStatement)
    this.#execute(connection, wallStatement(this.#wall))
    const known = wireQuery.hasBeenParsed.call(this, connection) ? descriptionsOf(connection).get(this.#name) : undefined
    this.#asksForColumns = known === undefined && this.#name !== ''
    const ahead = this.#options.onResult ? flushedBeforeSync(connection) : connection
    wireQuery.prepare.call(this, known === undefined ? ahead : withoutDescribe(ahead))
    if (known) this.handleRowDescription(known)
  }

  handleRowDescription(message: RowDescription): void {
    this.#description = message
    wireQuery.handleRowDescription.call(this, message)
  }

  handleCommandComplete(message: unknown, connection: WireConnection): void {
    if (this.#skip-- > 0) return
    if (this.#asksForColumns) descriptionsOf(connection).set(this.#name, this.#description)
    wireQuery.handleCommandComplete.call(this, message, connection)
    const { _results, _canceledDueToError } = this as unknown as WireQuery
    if (!_canceledDueToError) this.#options.onResult?.(_results)
  }

  get #name(): string {
    return (this as unknown as WireQuery).name ?? ''
  }

  #execute(connection: WireConnection, { name, text, values }: Statement): void {
    if (this.#options.named) {
      connection.bind({ statement: name, values })
    } else {
      connection.parse({ text })
      connection.bind({ values })
    }
    connection.execute({})
  }
}

/** Runs one scoped query on a connection that is ready for it. */
export function runScoped(
  client: pg.Client | pg.PoolClient,
  config: pg.QueryConfig,
  wall: Wall,
  options: ScopedQueryOptions,
): Promise<pg.QueryResult> {
  return new Promise((resolve, reject) => {
    const query = new ScopedQuery(config, wall, options) as ScopedQuery & {
      callback: (error: Error | null, result: pg.QueryResult) => void
    }
    query.callback = (error, result) => (error ? reject(error) : resolve(result))
    client.query(query as unknown as pg.Submittable)
  })
}

/** Prepares the two statements under their names, once per new connection. */
export async function prepareScope(client: pg.ClientBase): Promise<void> {
  await client.query(wallStatement({ tenantId: '', userId: null }))
  await client.query({ ...beginStatement })
  await client.query('ROLLBACK')
}
