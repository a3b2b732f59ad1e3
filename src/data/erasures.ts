import type pg from 'pg'
import { type TenantId, tenantIdOf } from '../domain/ids.ts'
import type { TenantStatus } from './generated/enums.ts'
import type { Placements } from './placements.ts'
import { transaction } from './platform-database.ts'
import { becomeEraser, type Counts, countRows, eraseSomeRows } from './tenant-eraser.ts'
import type { TenantTable } from './tenant-tables.ts'

/** What the catalogue knows of a tenant's erasure: its certificate, once it is finished. */
export type ErasureRecord = {
  tenantId: TenantId
  operatorName: string
  requestedAt: Date
  /** Null while it is under way. */
  finishedAt: Date | null
  found: Counts
  erased: Counts
  retained: Counts
  backupsExpireAt: Date | null
}

/** How long the last writers of a tenant are waited for, in seconds. Each is bound to much less. */
const longestWrite = 60

const columns = `id as "tenantId", operator_name as "operatorName", requested_at as "requestedAt", finished_at as "finishedAt",
  found, erased, retained, backups_expire_at as "backupsExpireAt"`

/**
 * The steps of erasing a tenant, as the platform and, for its rows, as the eraser. Each is one transaction, or a few, and may be
 * repeated.
 */
export class Erasures {
  readonly #catalogue: pg.Pool
  readonly #placements: Placements
  #last: Promise<unknown> = Promise.resolve()

  constructor(catalogue: pg.Pool, placements: Placements) {
    this.#catalogue = catalogue
    this.#placements = placements
  }

  async find(tenantId: string): Promise<ErasureRecord | null> {
    const { rows } = await this.#catalogue.query<ErasureRecord>(`select ${columns} from erasures where id = $1`, [tenantId])
    return rows[0] ?? null
  }

  /** Tenants whose erasure was begun and is not finished, oldest first, at most 100. */
  async unfinished(): Promise<TenantId[]> {
    const { rows } = await this.#catalogue.query<{ id: string }>(
      'select id from erasures where finished_at is null order by requested_at limit 100',
    )
    return rows.map(({ id }) => tenantIdOf(id))
  }

  /**
   * Marks the tenant as erased and fences it: from here on there is no way back, and nobody who looks lets it in. `check` is given
   * the tenant first, and what it throws leaves everything as it was. False when there is no such tenant. Once begun, does nothing.
   */
  begin(
    tenantId: string,
    operator: { id: string; name: string },
    check: (tenant: { name: string; isMoving: boolean }) => void,
  ): Promise<boolean> {
    return transaction(this.#catalogue, async (client) => {
      const { rows } = await client.query<{ name: string; status: TenantStatus }>(
        'select name, status from tenants where id = $1 for update',
        [tenantId],
      )
      const [tenant] = rows
      if (!tenant) return false
      const begun = await client.query('select from erasures where id = $1', [tenantId])
      if (begun.rowCount !== 0) return true
      // One that is suspended stays so while it is moved.
      const move = await client.query("select from tenant_moves where id = $1 and phase in ('DRAINING', 'COPYING')", [tenantId])
      check({ name: tenant.name, isMoving: tenant.status === 'MOVING' || move.rowCount !== 0 })
      await client.query(
        `update tenants set status = 'ERASED', fenced_at = now(), access_version = access_version + 1 where id = $1`,
        [tenantId],
      )
      await client.query('insert into erasures (id, operator_id, operator_name) values ($1, $2, $3)', [
        ...[tenantId, operator.id, operator.name],
      ])
      return true
    })
  }

  /**
   * Runs `work`, which erases the tenant: one at a time in this process, whichever tenant, since each takes connections. Answers
   * false, and runs nothing, while another process erases the same tenant.
   */
  alone(tenantId: string, work: () => Promise<void>): Promise<boolean> {
    const attempt = this.#last.then(() =>
      transaction(this.#catalogue, async (client) => {
        await client.query('SET LOCAL idle_in_transaction_session_timeout = 0')
        const { rows } = await client.query<{ mine: boolean }>(
          `select pg_try_advisory_xact_lock(hashtextextended('erasure of ' || $1, 0)) as mine`,
          [tenantId],
        )
        if (!rows[0]?.mine) return false
        await work()
        return true
      }),
    )
    this.#last = attempt.catch(() => undefined)
    return attempt
  }

  /** Resolves once nobody writes to the tenant any more: those who saw it before it was fenced are done, and others are refused. */
  async awaitWriters(tenantId: string): Promise<void> {
    for (const home of await this.#homesOf(tenantId)) {
      // Where the catalogue is not, its row only follows.
      await home.query(
        `update tenants set status = 'ERASED', fenced_at = now(), access_version = access_version + 1
         where id = $1 and (status <> 'ERASED' or fenced_at is null)`,
        [tenantId],
      )
      await transaction(home, async (client) => {
        await client.query(`SET LOCAL lock_timeout = '${longestWrite}s'`)
        await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [tenantId])
        // The one reference to the tenant's rows that is not from one of them.
        await client.query('update tenants set default_agent_id = null where id = $1', [tenantId])
      })
    }
  }

  /** Runs that a worker took and has not ended, as far as anybody knows. */
  async openRuns(tenantId: string): Promise<string[]> {
    const runs: string[] = []
    for (const home of await this.#homesOf(tenantId)) {
      const { rows } = await home.query<{ id: string }>(
        `select id from runs where tenant_id = $1 and epoch > 0
         and status in ('QUEUED', 'RUNNING', 'WAITING_APPROVAL', 'PAUSED_BUDGET')`,
        [tenantId],
      )
      runs.push(...rows.map(({ id }) => id))
    }
    return runs
  }

  /** Notes how many rows there are, and `more`, unless that was noted before. */
  async noteFound(tenantId: string, more: Counts): Promise<void> {
    const found = { ...(await this.#countRows(tenantId)), ...more }
    await this.#catalogue.query("update erasures set found = $2 where id = $1 and found = '{}'", [tenantId, found])
  }

  /** Deletes all the tenant's rows of these tables, one after the other. */
  async eraseRows(tenantId: string, tables: readonly TenantTable[]): Promise<void> {
    for (const home of await this.#homesOf(tenantId)) {
      for (const table of tables) {
        const some = () =>
          transaction(home, async (client) => {
            await becomeEraser(client, tenantId)
            return eraseSomeRows(client, table)
          })
        while (await some());
      }
    }
  }

  /**
   * Counts again, and when nothing is left but what is `retained`, writes the certificate, and takes the tenant's name from it.
   * Otherwise answers what is left, and the erasure goes on. `more` is what is left elsewhere.
   */
  async finish(tenantId: string, retained: readonly string[], more: Counts, backupDays: number): Promise<Counts> {
    const counts = Object.entries({ ...(await this.#countRows(tenantId)), ...more })
    const left = counts.filter(([kind, count]) => count > 0 && !retained.includes(kind))
    if (left.length > 0) return Object.fromEntries(left)

    const kept = Object.fromEntries(counts.filter(([kind]) => retained.includes(kind)))
    const homes = await this.#homesOf(tenantId)
    // The catalogue's last: by then the name is nowhere else.
    for (const home of homes.toReversed()) {
      await transaction(home, async (client) => {
        await client.query(
          `update tenants set name = 'erased-' || id, downgrade_model = null, model_key_secret = null, model_base_url = null,
             time_zone = default where id = $1`,
          [tenantId],
        )
        if (home !== this.#catalogue) return
        // By the digest of what it was made from, a guess at its name and its admin's address could be confirmed.
        await client.query("update operator_idempotency_keys set input_hash = '' where result_id = $1", [tenantId])
        await client.query(
          `update erasures set finished_at = now(), retained = $2, backups_expire_at = now() + make_interval(days => $3),
             erased = (select jsonb_object_agg(key, value::bigint - coalesce(($2::jsonb ->> key)::bigint, 0)) from jsonb_each_text(found))
           where id = $1 and finished_at is null`,
          [tenantId, kept, backupDays],
        )
      })
    }
    return {}
  }

  /** The rows in all databases together. */
  async #countRows(tenantId: string): Promise<Counts> {
    const sum: Record<string, number> = {}
    for (const home of await this.#homesOf(tenantId)) {
      const counts = await transaction(home, async (client) => {
        await becomeEraser(client, tenantId)
        return countRows(client)
      })
      for (const [table, rows] of Object.entries(counts)) sum[table] = (sum[table] ?? 0) + rows
    }
    return sum
  }

  /** The databases that may hold rows of the tenant, the catalogue's first. */
  async #homesOf(tenantId: string): Promise<pg.Pool[]> {
    return (await this.#placements.homesOf(tenantId)).map(({ pool }) => pool)
  }
}
