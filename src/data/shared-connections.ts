import pg from 'pg'
import { prepareScope, runScoped, type Wall } from './scoped-query.ts'

/** Bound on one short read, in milliseconds: a slow one would hold up everybody behind it. */
const statementTimeout = 2_000

/**
 * A few pipelined connections that short reads of all tenants share: each read is its own implicit transaction
 * with its own wall, so neighbours on the wire stay apart. A read here is never cancelled from the client, since
 * a CancelRequest hits whatever the backend is doing, perhaps for another tenant.
 */
export class SharedConnections {
  readonly #slots: (Slot | null)[]
  readonly #connectionString: string
  readonly #named: boolean
  #ended = false

  constructor(connectionString: string, size: number, named: boolean) {
    this.#slots = Array.from({ length: size }, () => null)
    this.#connectionString = connectionString
    this.#named = named
  }

  async query(config: pg.QueryConfig, wall: Wall): Promise<pg.QueryResult> {
    const slot = this.#leastBusy()
    slot.inFlight++
    try {
      const client = await slot.client
      return await runScoped(client, config, wall, { begin: false, named: this.#named })
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
    const slot: Slot = { client: this.#connect(() => this.#forget(index, slot)), inFlight: 0 }
    slot.client.catch(() => this.#forget(index, slot))
    this.#slots[index] = slot
    return slot
  }

  #forget(index: number, slot: Slot): void {
    if (this.#slots[index] === slot) this.#slots[index] = null
  }

  async #connect(onBroken: () => void): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#connectionString,
      pipeline: true,
      statement_timeout: statementTimeout,
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
