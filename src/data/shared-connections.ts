import pg from 'pg'
import { prepareScope, runScoped, type Wall } from './scoped-query.ts'

/**
 * A few pipelined connections that short reads of all tenants share: each read is its own implicit transaction
 * with its own wall, so neighbours on the wire stay apart. A read here is never cancelled from the client, since
 * a CancelRequest hits whatever the backend is doing, perhaps for another tenant.
 */
export class SharedConnections {
  readonly #slots: (Slot | null)[]
  readonly #connectionString: string
  readonly #named: boolean
  readonly #statementTimeout: number
  #ended = false

  /** `statementTimeout` bounds one read, in milliseconds: a slow one holds up everybody behind it. 0 leaves it to the server. */
  constructor(connectionString: string, size: number, named: boolean, statementTimeout: number) {
    this.#slots = Array.from({ length: size }, () => null)
    this.#connectionString = connectionString
    this.#named = named
    this.#statementTimeout = statementTimeout
  }

  /** Sends a read. One that its connection failed, and not Postgres, is sent once more on another: reads may be repeated. */
  async query(config: pg.QueryConfig, wall: Wall): Promise<pg.QueryResult> {
    try {
      return await this.#send(config, wall)
    } catch (error) {
      if (!isBroken(error) && !lostItsStatement(error)) throw error
      return this.#send(config, wall)
    }
  }

  async #send(config: pg.QueryConfig, wall: Wall): Promise<pg.QueryResult> {
    const slot = this.#leastBusy()
    slot.inFlight++
    try {
      return await runScoped(await slot.client, config, wall, { begin: false, named: this.#named })
    } catch (error) {
      // The socket's own error event comes later, and until then others would be sent into the void.
      if (isBroken(error)) this.#forget(slot)
      throw error
    } finally {
      slot.inFlight--
    }
  }

  async end(): Promise<void> {
    this.#ended = true
    const open = this.#slots.filter((slot) => slot !== null)
    await Promise.allSettled(open.map(async (slot) => (await slot.client).end()))
  }

  #leastBusy(): Slot {
    if (this.#ended) throw new Error('The shared connections are closed.')
    let best = 0
    for (let index = 0; index < this.#slots.length; index++) {
      const slot = this.#slots[index]
      if (!slot) return this.#open(index)
      if (slot.inFlight < (this.#slots[best]?.inFlight ?? 0)) best = index
    }
    return this.#slots[best] ?? this.#open(best)
  }

  #open(index: number): Slot {
    const slot: Slot = { client: this.#connect(() => this.#forget(slot)), inFlight: 0 }
    slot.client.catch(() => this.#forget(slot))
    this.#slots[index] = slot
    return slot
  }

  /** Makes room for a new connection. The old one ends after what it still has to answer; a dead one just ends. */
  #forget(slot: Slot): void {
    const index = this.#slots.indexOf(slot)
    if (index === -1) return
    this.#slots[index] = null
    slot.client.then((client) => client.end()).catch(() => undefined)
  }

  async #connect(onBroken: () => void): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#connectionString,
      pipeline: true,
      statement_timeout: this.#statementTimeout,
      connectionTimeoutMillis: 5_000,
    })
    client.on('error', onBroken)
    client.on('end', onBroken)
    await client.connect()
    if (this.#named) await prepareScope(client)
    return client
  }
}

type Slot = { client: Promise<pg.Client>; inFlight: number }

/** Whether the connection failed rather than the statement. */
function isBroken(error: unknown): boolean {
  return !(error instanceof pg.DatabaseError) || error.severity === 'FATAL'
}

/** Whether the statement was one that a neighbour on the wire should have prepared, and could not (26000, no such statement). */
function lostItsStatement(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '26000'
}
