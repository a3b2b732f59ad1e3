import type pg from 'pg'
import type { MovePhase, TenantStatus } from './generated/enums.ts'
import { MoveError } from './move-error.ts'
import { transaction } from './platform-database.ts'
import type { Digests } from './tenant-copy.ts'

/** How far a tenant's move has come. `null` stands for the catalogue's own database. */
export type TenantMove = { tenantId: string; sourceId: string | null; targetId: string | null; phase: MovePhase; tables: Digests }

/** The tenant, as the catalogue has it. */
export type MovedTenant = { id: string; name: string; status: TenantStatus; databaseId: string | null }

/** By name or id; null when there is none. */
export async function findTenant(catalogue: pg.Pool, nameOrId: string): Promise<MovedTenant | null> {
  const { rows } = await catalogue.query<MovedTenant>(
    `select id, name, status, database_id as "databaseId" from tenants where name = $1 or id::text = $1 order by name = $1 desc`,
    [nameOrId],
  )
  return rows[0] ?? null
}

/** The move that was begun and has not come to its end; null when there is none. */
export async function findMove(catalogue: pg.Pool, tenantId: string): Promise<TenantMove | null> {
  const { rows } = await catalogue.query<TenantMove>(
    `select id as "tenantId", source_id as "sourceId", target_id as "targetId", phase, tables
     from tenant_moves where id = $1 and phase <> 'DONE'`,
    [tenantId],
  )
  return rows[0] ?? null
}

/**
 * Notes that the tenant is being moved. From here on an active one takes no more changes and no run of it is claimed. One that is
 * suspended stays so, which is as good.
 */
export async function beginMove(catalogue: pg.Pool, tenant: MovedTenant, targetId: string | null): Promise<void> {
  await transaction(catalogue, async (client) => {
    const { rows } = await client.query<{ status: TenantStatus; sourceId: string | null }>(
      'select status, database_id as "sourceId" from tenants where id = $1 for update',
      [tenant.id],
    )
    const [found] = rows
    if (!found || found.status === 'ERASED') throw new MoveError(`The tenant ${tenant.name} is erased. There is nothing to move.`)
    await client.query(
      `insert into tenant_moves (id, source_id, target_id) values ($1, $2, $3)
       on conflict (id) do update set source_id = excluded.source_id, target_id = excluded.target_id, phase = 'DRAINING',
         tables = '{}', started_at = now(), finished_at = null`,
      [tenant.id, found.sourceId, targetId],
    )
    await client.query("update tenants set status = 'MOVING' where id = $1 and status = 'ACTIVE'", [tenant.id])
  })
}

/** Takes the move from one phase to the next. Throws when it is not there: another process has gone on with it. */
export async function advance(
  client: pg.ClientBase | pg.Pool,
  move: TenantMove,
  phase: MovePhase,
  tables?: Digests,
): Promise<void> {
  const { rowCount } = await client.query(
    `update tenant_moves set phase = $3, tables = coalesce($4, tables), finished_at = case $3::move_phase when 'DONE' then now() end
     where id = $1 and phase = $2`,
    [move.tenantId, move.phase, phase, tables ?? null],
  )
  if (rowCount !== 1) throw new MoveError('Another process has gone on with this move. Look again how far it is.')
  move.phase = phase
}

/**
 * The switch: one transaction of the catalogue, after which the tenant is in the target, what it may do is as before, and every
 * connection of it is checked again. `accessVersion` is the one in the source. False, and nothing is changed, when `isStill` says
 * so, which is asked while the platform cannot change anything of the tenant.
 */
export async function switchOver(
  catalogue: pg.Pool,
  move: TenantMove,
  accessVersion: number,
  isStill: () => Promise<boolean>,
): Promise<boolean> {
  return transaction(catalogue, async (client) => {
    const { rowCount } = await client.query("select from tenants where id = $1 and status <> 'ERASED' for update", [
      move.tenantId,
    ])
    if (rowCount !== 1) throw new MoveError('The tenant is erased. There is nothing to move.')
    if (!(await isStill())) return false
    await client.query(
      `update tenants set database_id = $2, access_version = greatest(access_version, $3) + 1,
         status = case status when 'MOVING' then 'ACTIVE' else status end,
         fenced_at = case when $2::uuid is not null then coalesce(fenced_at, now()) end
       where id = $1`,
      [move.tenantId, move.targetId, accessVersion],
    )
    await advance(client, move, 'SWITCHED')
    return true
  })
}

/** Lets the tenant go on where it is. The move is as if it had just begun, until `forgetMove`. */
export async function callOff(catalogue: pg.Pool, move: TenantMove): Promise<void> {
  await transaction(catalogue, async (client) => {
    await advance(client, move, 'DRAINING')
    await client.query(
      `update tenants set status = case status when 'MOVING' then 'ACTIVE' else status end,
         fenced_at = case when $2::uuid is not null then coalesce(fenced_at, now()) end
       where id = $1 and status <> 'ERASED'`,
      [move.tenantId, move.sourceId],
    )
  })
}

/** What is left of a move that was called off: where the tenant is, when that is not where all are. */
export async function forgetMove(catalogue: pg.Pool, move: TenantMove): Promise<void> {
  if (move.sourceId === null) {
    await catalogue.query('delete from tenant_moves where id = $1', [move.tenantId])
  } else {
    await catalogue.query(`update tenant_moves set target_id = source_id, tables = '{}' where id = $1`, [move.tenantId])
    await advance(catalogue, move, 'DONE')
  }
}

/** Forgets a database that no tenant is in or on its way to, and no move needs any more. */
export async function forgetDatabase(catalogue: pg.Pool, databaseId: string): Promise<void> {
  await catalogue.query(
    `delete from databases d where id = $1 and not exists (select from tenants where database_id = d.id)
       and not exists (select from tenant_moves where phase <> 'DONE' and d.id in (source_id, target_id))`,
    [databaseId],
  )
}

/** Runs `work` while nobody else moves this tenant. Throws MoveError when somebody does. */
export async function exclusively<T>(catalogue: pg.Pool, tenantId: string, work: () => Promise<T>): Promise<T> {
  // A transaction and not a session holds the lock, so that a pooler may be in between.
  return transaction(catalogue, async (client) => {
    await client.query('SET LOCAL idle_in_transaction_session_timeout = 0')
    const { rows } = await client.query<{ mine: boolean }>(
      `select pg_try_advisory_xact_lock(hashtextextended('move of ' || $1, 0)) as mine`,
      [tenantId],
    )
    if (!rows[0]?.mine) throw new MoveError('Another process is moving this tenant. Wait for it, or stop it first.')
    const lost = new Promise<never>((_, reject) => {
      client.once('error', (error) =>
        reject(new MoveError('The connection to the catalogue was lost. Run the command again.', { cause: error })),
      )
    })
    return Promise.race([work(), lost])
  })
}
