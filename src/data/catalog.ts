import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { newId, type TenantId, tenantIdOf } from '../domain/ids.ts'
import { Erasures } from './erasures.ts'
import { type OperatorKey, Prisma, PrismaClient, type Tenant } from './generated/client.ts'
import type { PriceCreateManyInput } from './generated/models.ts'
import { TenantRegister } from './tenant-register.ts'

export type CatalogOptions = {
  /** Connects as `bulkhead_platform`. */
  connectionString: string
  /** Default 3. */
  max?: number
  /** Bound on waiting for a connection, in milliseconds. Default 5,000. */
  connectionTimeoutMillis?: number
  onIdleError?: (error: Error) => void
}

/**
 * What is platform-wide: tenants, operators' keys, prices, workers, and which runs need attention.
 * It connects as `bulkhead_platform`, which has no grant on any column that holds a tenant's content.
 */
export class Catalog {
  readonly tenants: TenantRegister
  readonly erasures: Erasures
  readonly #pool: pg.Pool
  /**
   * A connection of their own for heartbeats and access versions: no worker must look dead, and no revoked key be heard of late,
   * because others crowd the pool.
   */
  readonly #pulse: pg.Pool
  readonly #client: PrismaClient

  constructor(options: CatalogOptions) {
    this.#pool = openPool(options, options.max ?? 3)
    this.#pulse = openPool(options, 1)
    this.erasures = new Erasures(this.#pool)
    this.#client = new PrismaClient({ adapter: new PrismaPg(this.#pool), errorFormat: 'minimal' })
    this.tenants = new TenantRegister(this.#client, this.#pulse)
  }

  findOperatorKey(id: string): Promise<OperatorKey | null> {
    return this.#client.operatorKey.findFirst({ where: { id } })
  }

  async createOperatorKey(
    key: Omit<OperatorKey, 'createdAt' | 'revokedAt' | 'secretHash'> & { secretHash: Uint8Array<ArrayBuffer> },
  ): Promise<void> {
    await this.#client.operatorKey.create({ data: key })
  }

  findTenant(id: string): Promise<Tenant | null> {
    return this.#client.tenant.findFirst({ where: { id } })
  }

  findTenantByName(name: string): Promise<Tenant | null> {
    return this.#client.tenant.findFirst({ where: { name } })
  }

  /** Whether the database answers. */
  async isReachable(): Promise<boolean> {
    return this.#client.$queryRaw`select 1`.then(
      () => true,
      () => false,
    )
  }

  /** Adds the versions that are missing; a version that is there is never changed. */
  async registerPrices(prices: readonly Omit<PriceCreateManyInput, 'id'>[]): Promise<void> {
    await this.#client.price.createMany({ data: prices.map((price) => ({ id: newId(), ...price })), skipDuplicates: true })
  }

  /** Says that the worker lives. The first beat registers it. Time is the database's, so that clocks need not agree. */
  async heartbeat(workerId: string): Promise<void> {
    const beat = `insert into workers (id, started_at, heartbeat_at) values ($1, now(), now())
      on conflict (id) do update set heartbeat_at = now()`
    await this.#pulse.query(beat, [workerId])
  }

  async removeWorker(workerId: string): Promise<void> {
    await this.#client.worker.deleteMany({ where: { id: workerId } })
  }

  /** Runs that a worker claimed and has not been heard of for `deadAfterMs`, oldest first, at most 1,000. */
  async orphanedRuns(deadAfterMs: number): Promise<ClaimedRun[]> {
    const rows = await this.#client.$queryRaw<ClaimedRow[]>`
      select tenant_id, id, epoch from runs
      where status = 'RUNNING' and ${unfenced} and not exists (
        select from workers where workers.id = runs.worker_id and heartbeat_at > now() - make_interval(secs => ${deadAfterMs / 1000}))
      order by queued_at limit 1000`
    return rows.map(claimedRun)
  }

  /** Runs that this worker claimed and that have not ended, oldest first, at most 1,000. */
  async runsOfWorker(workerId: string): Promise<ClaimedRun[]> {
    const rows = await this.#client.$queryRaw<ClaimedRow[]>`
      select tenant_id, id, epoch from runs where status = 'RUNNING' and ${unfenced} and worker_id = ${workerId}::uuid
      order by queued_at limit 1000`
    return rows.map(claimedRun)
  }

  /** Tenants with a run that has been queued for longer than `olderThanMs`, at most 1,000. */
  async tenantsWithOverdueRuns(olderThanMs: number): Promise<TenantId[]> {
    const rows = await this.#client.$queryRaw<{ tenant_id: string }[]>`
      select distinct tenant_id from runs
      where status = 'QUEUED' and ${unfenced} and queued_at < now() - make_interval(secs => ${olderThanMs / 1000})
      limit 1000`
    return rows.map((row) => tenantIdOf(row.tenant_id))
  }

  async close(): Promise<void> {
    await this.#client.$disconnect()
    await Promise.all([this.#pool.end(), this.#pulse.end()])
  }
}

function openPool({ connectionString, connectionTimeoutMillis = 5_000, onIdleError }: CatalogOptions, max: number): pg.Pool {
  const pool = new pg.Pool({ connectionString, max, connectionTimeoutMillis })
  // A pool has ended before its connections have, and a server that stops then is no news.
  pool.on('error', (error) => !pool.ending && onIdleError?.(error))
  // Of a connection in use the pool hears nothing, and an error that nobody hears ends the process.
  pool.on('connect', (client) => client.on('error', () => undefined))
  return pool
}

/** Runs of a tenant that is being moved away or erased are let be: this database refuses to write them. */
const unfenced = Prisma.sql`exists (select from tenants where tenants.id = runs.tenant_id and fenced_at is null)`

type ClaimedRun = { tenantId: TenantId; runId: string; epoch: number }
type ClaimedRow = { tenant_id: string; id: string; epoch: number }

function claimedRun({ tenant_id, id, epoch }: ClaimedRow): ClaimedRun {
  return { tenantId: tenantIdOf(tenant_id), runId: id, epoch }
}
