import type pg from 'pg'
import { TenantPool, type TenantPoolOptions } from '../../src/data/tenant-pool.ts'

/** Thrown by whatever a dead process would have done. */
class Dead extends Error {
  constructor() {
    super('The process is dead.')
    this.name = 'Dead'
  }
}

/** When a process dies: at the n-th statement from now on, before it is sent or after it was carried out. */
export type Death = { statement: number; isCarriedOut: boolean }

type Query = (config: never) => Promise<never>

/** A pool whose process can die: from then on nothing reaches the database, and what is open is rolled back. */
export class MortalPool extends TenantPool {
  isDead = false
  readonly #idle: (() => void)[] = []
  #death: Death | null = null
  #statements = 0

  constructor(options: TenantPoolOptions) {
    super({ ...options, shared: 0 })
  }

  /** Counts statements from now on. */
  arm(death: Death): void {
    this.#statements = 0
    this.#death ??= death
  }

  die(): never {
    this.isDead = true
    for (const tell of this.#idle) tell()
    throw new Dead()
  }

  /** Resolves when it is dead. */
  async death(): Promise<void> {
    if (!this.isDead) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  override query(config: never): Promise<never> {
    return this.#live(() => super.query(config))
  }

  override connect(): Promise<pg.PoolClient>
  override connect(callback: never): void
  override connect(callback?: never): Promise<pg.PoolClient> | undefined {
    return callback === undefined ? this.#connect() : undefined
  }

  async #connect(): Promise<pg.PoolClient> {
    if (this.isDead) throw new Dead()
    const client = await super.connect()
    const query = client.query.bind(client) as Query
    // Whatever a dead process leaves open, its connection takes with it.
    const live: Query = (config) =>
      this.#live(
        () => query(config),
        () => query({ text: 'ROLLBACK' } as never),
      )
    return Object.assign(client, { query: live })
  }

  async #live(send: () => Promise<never>, rollBack?: () => Promise<never>): Promise<never> {
    const isLast = this.#death !== null && ++this.#statements === this.#death.statement
    if (!this.isDead && !isLast) return send()
    if (isLast && this.#death?.isCarriedOut) await send()
    else await rollBack?.().catch(() => undefined)
    return this.die()
  }
}
