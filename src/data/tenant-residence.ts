import type pg from 'pg'
import { MoveError } from './move-error.ts'
import { transaction } from './platform-database.ts'
import { becomeEraser, countRows, eraseSomeRows } from './tenant-eraser.ts'
import { tenantTables } from './tenant-tables.ts'

/** How long the last writers of a tenant are waited for, in seconds. Each is bound to much less. */
const longestWrite = 60

/** What a tenant's row says of where the tenant is, when that is the catalogue's own database and this row is elsewhere. */
export const inCatalogue = '00000000-0000-0000-0000-000000000000'

/** A tenant's own row, as the catalogue or another database has it. */
export type Resident = { accessVersion: number; defaultAgentId: string | null }

/** Shuts the tenant's rows in this database. Resolves once nobody writes them any more. As the platform. */
export async function fence(database: pg.Pool, tenantId: string): Promise<void> {
  await database.query('update tenants set fenced_at = coalesce(fenced_at, now()) where id = $1', [tenantId])
  await transaction(database, async (client) => {
    await client.query(`SET LOCAL lock_timeout = '${longestWrite}s'`)
    await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [tenantId]).catch((error) => {
      throw error.code === lockNotAvailable ? new MoveError(endless, { cause: error }) : error
    })
  })
}

const lockNotAvailable = '55P03'

const endless = `Somebody has been writing to the tenant for more than ${longestWrite} seconds. Run the command again, or undo the move with --abort.`

export async function unfence(database: pg.Pool, tenantId: string): Promise<void> {
  await database.query('update tenants set fenced_at = null where id = $1', [tenantId])
}

export async function readResident(database: pg.Pool, tenantId: string): Promise<Resident> {
  const { rows } = await database.query<Resident>(
    'select access_version as "accessVersion", default_agent_id as "defaultAgentId" from tenants where id = $1',
    [tenantId],
  )
  if (!rows[0]) throw new Error('The tenant has no row in the database that it is in.')
  return rows[0]
}

/** Gives the tenant's row in `target` what its admins decided in `source`. What counters hold of its limits is outdated. */
export async function copySettings(source: pg.Pool, target: pg.Pool, tenantId: string): Promise<void> {
  const { rows } = await source.query<{ row: string }>('select row_to_json(t)::text as row from tenants t where id = $1', [
    tenantId,
  ])
  await target.query(
    `update tenants set time_zone = s.time_zone, past_time_zones = s.past_time_zones, quota_thresholds = s.quota_thresholds, budget_behaviour = s.budget_behaviour,
       downgrade_model = s.downgrade_model, downgrade_at = s.downgrade_at,
       model_key_secret = s.model_key_secret, model_base_url = s.model_base_url,
       limits_version = greatest(tenants.limits_version, s.limits_version) + 1
     from json_populate_record(null::tenants, $2::json) s where tenants.id = $1`,
    [tenantId, rows[0]?.row],
  )
}

/** How many runs of the tenant some worker is at. */
export async function countRunning(database: pg.Pool, tenantId: string): Promise<number> {
  const { rows } = await database.query<{ runs: number }>(
    "select count(*)::int as runs from runs where tenant_id = $1 and status = 'RUNNING'",
    [tenantId],
  )
  return rows[0]?.runs ?? 0
}

/** Whether this database has any of the tenant's rows. */
export async function holdsRows(database: pg.Pool, tenantId: string): Promise<boolean> {
  return transaction(database, async (client) => {
    await becomeEraser(client, tenantId)
    return Object.values(await countRows(client)).some((rows) => rows > 0)
  })
}

/** Deletes all the tenant's rows in this database, whether it is fenced or not, and keeps the tenant's own row. */
export async function clear(database: pg.Pool, tenantId: string): Promise<void> {
  // The one reference to the tenant's rows that is not from one of them.
  await database.query('update tenants set default_agent_id = null where id = $1', [tenantId])
  for (const table of tenantTables.toReversed()) {
    const some = () =>
      transaction(database, async (client) => {
        await becomeEraser(client, tenantId)
        return eraseSomeRows(client, table)
      })
    while (await some());
  }
}

/**
 * Makes room for the tenant's rows in a database other than the catalogue's: its own row, as the catalogue has it and without an
 * agent, open for writing. What it may do follows from the catalogue's row once it has arrived.
 */
export async function admit(database: pg.Pool, catalogue: pg.Pool, tenantId: string): Promise<void> {
  const { rows } = await catalogue.query('select id, name, plan, status, created_at from tenants where id = $1', [tenantId])
  const { id, name, plan, status, created_at } = rows[0]
  await database.query(
    `insert into tenants (id, name, plan, status, created_at) values ($1, $2, $3, $4, $5)
     on conflict (id) do update set name = excluded.name, plan = excluded.plan, status = excluded.status,
       database_id = null, fenced_at = null`,
    [id, name, plan, status, created_at],
  )
}

/** Says in a database that the tenant has left or never arrived where it is instead, and forgets its name. */
export async function depart(database: pg.Pool, tenantId: string, databaseId: string): Promise<void> {
  await database.query(
    `update tenants set database_id = $2, fenced_at = coalesce(fenced_at, now()), name = 'moved-' || id where id = $1`,
    [tenantId, databaseId],
  )
}
