import pg from 'pg'
import { prepareScope, runScoped, type Wall } from './scoped-query.ts'
import type { SilenceWatch } from './silence.ts'

export type SharedConnectionsOptions = {
  connectionString: string
  /** How many connections. */
  size: number
  /** Whether statements are kept prepared by name. */
  named: boolean
  /** Bound on one read, in milliseconds: a slow one holds up everybody behind it. 0 leaves it to the server. */
  statementTimeoutMillis: number
  silence: SilenceWatch
  /** How long to wait for an answer, in milliseconds; 0 is for ever. */
  silenceMillis: number
  /** Bound on opening a connection, in milliseconds. */
  connectionTimeoutMillis: number
}

/**
 * A few pipelined connections that short reads of all tenants share: each read is its own implicit transaction
 * with its own wall, so neighbours on the wire stay apart. A read here is never cancelled from the client, since
 * a CancelRequest hits whatever the backend is doing, perhaps for another tenant.
 */
export class SharedConnections {
  readonly #options: SharedConnectionsOptions
  readonly #slots: (Slot | null)[]
  #ended = false

  constructor(options: SharedConnectionsOptions) {
    this.#options = options
    this.#slots = Array.from({ length: options.size }, () => null)
  }

  /**
   * Sends a read. One whose connection broke under it is sent once more on another: reads may be repeated. A connection that
   * cannot be had is not tried again.
   */
  async query(config: pg.QueryConfig, wall: Wall): Promise<pg.QueryResult> {
    for (let attempt = 1; ; attempt++) {
      const slot = this.#leastBusy()
      slot.inFlight++
      try {
        const client = await slot.client
        try {
          return await runScoped(client, config, wall, { begin: false, named: this.#options.named })
        } catch (error) {
          // The socket's own error event comes later, and until then others would be sent into the void.
          if (isBroken(error)) this.#forget(slot)
          else if (!lostItsStatement(error)) throw error
          if (attempt === 2) throw error
        }
      } finally {
        slot.inFlight--
      }
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
      connectionString: this.#options.connectionString,
      pipeline: true,
      statement_timeout: this.#options.statementTimeoutMillis,
      connectionTimeoutMillis: this.#options.connectionTimeoutMillis,
    })
    client.on('error', onBroken)
    client.on('end', onBroken)
    await client.connect()
    this.#options.silence.over(client, this.#options.silenceMillis)
    if (this.#options.named) await prepareScope(client)
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
