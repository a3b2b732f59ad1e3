import type pg from 'pg'
import { newId, type TenantId, tenantIdOf } from '../domain/ids.ts'
import type { UrlCipher } from './database-address.ts'
import { Erasures } from './erasures.ts'
import { type OperatorKey, type OutboxChannel, Prisma, type PrismaClient, type Tenant } from './generated/client.ts'
import type { PriceCreateManyInput } from './generated/models.ts'
import { KeyRegister } from './key-register.ts'
import { Placements } from './placements.ts'
import { openPlatformPool, PlatformDatabase, type PlatformDatabaseOptions } from './platform-database.ts'
import { PriceRegister } from './price-register.ts'
import { QuotaRegister } from './quota-register.ts'
import { TenantRegister } from './tenant-register.ts'

/** A message that somebody is to deliver now. */
export type DueMessage = { tenantId: TenantId; id: string; channel: OutboxChannel }

/** How long the answer to a heartbeat is waited for, in milliseconds. A worker that is not heard of for twice as long is dead. */
const longestPulse = 4_000

/** What a run is at. `isToEnd`: somebody asked for its end. */
export type RunStanding = { runId: string; epoch: number; isUnderWay: boolean; isToEnd: boolean }

export type CatalogOptions = PlatformDatabaseOptions & {
  /** Reads the URLs of the databases that some tenants have to themselves. Default: none, and there are no such tenants. */
  cipher?: UrlCipher | null
}

/**
 * What is platform-wide: tenants, operators' keys, prices, workers, and which runs need attention.
 * It connects as `bulkhead_platform`, which has no grant on any column that holds a tenant's content.
 */
export class Catalog {
  readonly tenants: TenantRegister
  readonly erasures: Erasures
  readonly placements: Placements
  readonly quotas: QuotaRegister
  readonly prices: PriceRegister
  readonly keys: KeyRegister
  readonly #database: PlatformDatabase
  /**
   * A connection of their own for heartbeats and access versions: no worker must look dead, and no revoked key be heard of late,
   * because others crowd the pool.
   */
  readonly #pulse: pg.Pool
  readonly #client: PrismaClient

  constructor(options: CatalogOptions) {
    const { cipher = null, onIdleError } = options
    this.#database = new PlatformDatabase(options)
    this.#pulse = openPlatformPool({ ...options, max: 1, silenceMillis: longestPulse })
    this.#client = this.#database.client
    this.placements = new Placements(this.#database, {
      cipher,
      onError: (error) => onIdleError?.(error instanceof Error ? error : new Error(String(error))),
    })
    this.erasures = new Erasures(this.#database.pool, this.placements)
    this.tenants = new TenantRegister(this.#client, this.#pulse, this.placements)
    this.quotas = new QuotaRegister(this.#client, this.placements)
    this.prices = new PriceRegister(this.#client, this.placements)
    this.keys = new KeyRegister(this.#database, this.placements, cipher)
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

  /** Adds first prices of the models that have none. What operators made of a price since is left alone. */
  async registerPrices(prices: readonly Omit<PriceCreateManyInput, 'id' | 'version'>[]): Promise<void> {
    const data = prices.map((price) => ({ id: newId(), version: 1, ...price }))
    await this.#client.price.createMany({ data, skipDuplicates: true })
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

  /** How many workers were heard of within `deadAfterMs`. */
  async livingWorkers(deadAfterMs: number): Promise<number> {
    const [row] = await this.#client.$queryRaw<{ count: number }[]>`
      select count(*)::int as count from workers where heartbeat_at > now() - make_interval(secs => ${deadAfterMs / 1000})`
    return row?.count ?? 0
  }

  /** Runs that a worker claimed and has not been heard of for `deadAfterMs`, oldest first, at most 1,000 of each database. */
  orphanedRuns(deadAfterMs: number): Promise<ClaimedRun[]> {
    return this.placements.everywhere(async (client) => {
      // Who is alive is asked second: a worker that has just begun must not look dead.
      const claims = await client.$queryRaw<{ worker_id: string | null }[]>`
        select distinct worker_id from runs where status = 'RUNNING' and ${unfenced}`
      const workers = claims.flatMap(({ worker_id }) => worker_id ?? [])
      if (workers.length === 0) return []
      const alive = await this.#client.$queryRaw<{ id: string }[]>`
        select id from workers where id = any(${workers}::uuid[]) and heartbeat_at > now() - make_interval(secs => ${deadAfterMs / 1000})`
      const dead = workers.filter((worker) => !alive.some(({ id }) => id === worker))
      return dead.length === 0 ? [] : runsOf(client, dead)
    })
  }

  /** Runs that this worker claimed and that have not ended, oldest first, at most 1,000 of each database. */
  runsOfWorker(workerId: string): Promise<ClaimedRun[]> {
    return this.placements.everywhere((client) => runsOf(client, [workerId]))
  }

  /** What became of these runs, whose tenants are all in this database; null is the catalogue's own. Those that were deleted are left out. */
  async standingOf(runs: readonly { tenantId: TenantId; runId: string }[], databaseId: string | null): Promise<RunStanding[]> {
    const { client } = await this.placements.at(databaseId)
    return client.$queryRaw`
      select id as "runId", epoch, status = 'RUNNING' as "isUnderWay", cancel_requested_at is not null as "isToEnd"
      from unnest(${runs.map(({ tenantId }) => tenantId)}::uuid[], ${runs.map(({ runId }) => runId)}::uuid[]) as wanted (tenant_id, id)
        join runs using (tenant_id, id)`
  }

  /** Runs that are over, or were deleted, with a model call older than `olderThanMs` that nobody reported, at most 1,000 of each database. */
  abandonedCalls(olderThanMs: number): Promise<{ tenantId: TenantId; runId: string }[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string; run_id: string }[]>`
        select distinct tenant_id, run_id from model_call_attempts a
        where created_at < now() - make_interval(secs => ${olderThanMs / 1000})
          and exists (select from tenants where tenants.id = a.tenant_id and fenced_at is null)
          and not exists (select from runs where runs.tenant_id = a.tenant_id and runs.id = a.run_id
            and status in ('QUEUED', 'RUNNING', 'WAITING_APPROVAL', 'PAUSED_BUDGET'))
        limit 1000`
      return rows.map(({ tenant_id, run_id }) => ({ tenantId: tenantIdOf(tenant_id), runId: run_id }))
    })
  }

  /**
   * Messages of the outbox that are due to tenants' own receivers, at most 1,000 of each database and 100 of each tenant: first the oldest
   * of every tenant, then the next, so that nobody's crowd comes before another's first.
   */
  dueMessages(): Promise<DueMessage[]> {
    return this.#dueMessages(Prisma.sql`
      select tenant_id, id, channel::text from (
        select tenant_id, id, channel, due_at, row_number() over (partition by tenant_id order by due_at) as place
        from outbox
        where due_at <= now() and channel in ('EMAIL', 'WEBHOOK')
          and exists (select from tenants where tenants.id = outbox.tenant_id and fenced_at is null)
      ) due where place <= 100 order by place, due_at limit 1000`)
  }

  /** Those that are due to the platform's feed, the oldest first, at most 1,000 of each database, however many wait. */
  dueFeedMessages(): Promise<DueMessage[]> {
    return this.#dueMessages(Prisma.sql`
      select tenant_id, id, channel::text from outbox
      where channel = 'USAGE_FEED' and due_at <= now()
        and exists (select from tenants where tenants.id = outbox.tenant_id and fenced_at is null)
      order by due_at limit 1000`)
  }

  #dueMessages(due: Prisma.Sql): Promise<DueMessage[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string; id: string; channel: OutboxChannel }[]>(due)
      return rows.map(({ tenant_id, id, channel }) => ({ tenantId: tenantIdOf(tenant_id), id, channel }))
    })
  }

  /**
   * Tenants with a run that has been queued for longer than `olderThanMs`, at most 1,000 of each database. One that was queued in the
   * future, by a clock that was put back since or another database's, may have been for any time.
   */
  async tenantsWithOverdueRuns(olderThanMs: number): Promise<TenantId[]> {
    const tenants = await this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string }[]>`
        select distinct tenant_id from runs
        where status = 'QUEUED' and ${unfenced}
          and (queued_at < now() - make_interval(secs => ${olderThanMs / 1000}) or queued_at > now())
        limit 1000`
      return rows.map((row) => ({ tenantId: tenantIdOf(row.tenant_id) }))
    })
    return tenants.map(({ tenantId }) => tenantId)
  }

  /** Runs that wait for people whose time to decide about one of its tool calls is over, at most 1,000 of each database. */
  runsWithExpiredRequests(): Promise<{ tenantId: TenantId; runId: string }[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string; id: string }[]>`
        select tenant_id, id from runs where status = 'WAITING_APPROVAL' and queued_at <= now() and ${unfenced}
        order by queued_at limit 1000`
      return rows.map(({ tenant_id, id }) => ({ tenantId: tenantIdOf(tenant_id), runId: id }))
    })
  }

  /** Runs that wait for a worker, longest first, at most 10,000 of each database. */
  queuedRuns(): Promise<{ tenantId: TenantId; runId: string }[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string; id: string }[]>`
        select tenant_id, id from runs where status = 'QUEUED' and ${unfenced} order by queued_at limit 10000`
      return rows.map(({ tenant_id, id }) => ({ tenantId: tenantIdOf(tenant_id), runId: id }))
    })
  }

  /** Tenants that a run was queued for within `millis`, with the version of their limits, at most 1,000 of each database. */
  recentTenants(millis: number): Promise<{ tenantId: TenantId; limitsVersion: number }[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ id: string; limits_version: number }[]>`
        select id, limits_version from tenants where fenced_at is null and id in (
          select tenant_id from runs where queued_at > now() - make_interval(secs => ${millis / 1000})
            -- All but WAITING_APPROVAL, whose time is when a person's time is over.
            and status in ('QUEUED', 'RUNNING', 'PAUSED_BUDGET', 'COMPLETED', 'FAILED', 'CANCELLED', 'INTERRUPTED'))
        limit 1000`
      return rows.map(({ id, limits_version }) => ({ tenantId: tenantIdOf(id), limitsVersion: limits_version }))
    })
  }

  /**
   * Quarters of an hour whose ledger is to be summed and that were over five minutes ago, at most 1,000 of each database and 100 of each
   * tenant, the newest first: what cannot be summed for whatever reason is in nobody's way.
   */
  quartersToSum(): Promise<{ tenantId: TenantId; bucket: Date }[]> {
    return this.placements.everywhere(async (client) => {
      const rows = await client.$queryRaw<{ tenant_id: string; bucket: Date }[]>`
        select tenant_id, bucket from (
          select tenant_id, bucket, row_number() over (partition by tenant_id order by bucket desc) as place from usage_rollups
          where part = 0 and bucket <= now() - interval '20 minutes'
            and exists (select from tenants where tenants.id = usage_rollups.tenant_id and fenced_at is null)
        ) unsummed where place <= 100 order by place limit 1000`
      return rows.map(({ tenant_id, bucket }) => ({ tenantId: tenantIdOf(tenant_id), bucket }))
    })
  }

  async close(): Promise<void> {
    await Promise.all([this.placements.close(), this.#pulse.end()])
    await this.#database.close()
  }
}

async function runsOf(client: PrismaClient, workers: string[]): Promise<ClaimedRun[]> {
  const rows = await client.$queryRaw<{ tenant_id: string; id: string; epoch: number }[]>`
    select tenant_id, id, epoch from runs where status = 'RUNNING' and ${unfenced} and worker_id = any(${workers}::uuid[])
    order by queued_at limit 1000`
  return rows.map(({ tenant_id, id, epoch }) => ({ tenantId: tenantIdOf(tenant_id), runId: id, epoch }))
}

/** Runs of a tenant that is being moved away or erased are let be: this database refuses to write them. */
const unfenced = Prisma.sql`exists (select from tenants where tenants.id = runs.tenant_id and fenced_at is null)`

type ClaimedRun = { tenantId: TenantId; runId: string; epoch: number }
