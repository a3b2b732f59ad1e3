import pg from 'pg'
import { raiseWall } from './scoped-query.ts'
import { originalTables, type TenantTable } from './tenant-tables.ts'

/** How many rows of a tenant a table has, and the sum of their hashes, in which their order does not count. */
export type Digest = { rows: number; checksum: string }
export type Digests = Readonly<Record<string, Digest>>

/** Told how many rows of a table were copied so far. */
export type CopyProgress = (table: string, rows: number) => void

/** What one batch is to hold, in bytes, as far as the batch before can tell, and rows at most. */
const batchBytes = 2_000_000
const batchRows = 1_000
const firstBatchRows = 50

/**
 * Runs `work` in a transaction behind the tenant's wall. Values are written out the same way whatever the server's settings:
 * checksums of two servers are compared.
 */
async function behindWall<T>(client: pg.Client, tenantId: string, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN')
  try {
    await raiseWall(client, { tenantId, userId: null })
    await client.query(
      "select set_config('TimeZone', 'UTC', true), set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true)",
    )
    const result = await work()
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  }
}

/** The digest of each table, of the tenant's rows. `client` connects as `bulkhead_app`. */
export async function digestRows(client: pg.Client, tenantId: string): Promise<Digests> {
  const digests: [string, Digest][] = []
  for (const { name } of originalTables) {
    const { rows } = await behindWall(client, tenantId, () =>
      // 60 bits of each row's MD5, which every version of Postgres computes alike.
      client.query<{ rows: string; checksum: string }>(
        `select count(*) as rows, coalesce(sum(('x' || substr(md5(row_to_json(t)::text), 1, 15))::bit(60)::bigint), 0) as checksum
         from ${pg.escapeIdentifier(name)} t where tenant_id = $1`,
        [tenantId],
      ),
    )
    digests.push([name, { rows: Number(rows[0]?.rows), checksum: rows[0]?.checksum ?? '' }])
  }
  return Object.fromEntries(digests)
}

/** How many rows of the tenant a table has. `client` connects as `bulkhead_app`. */
export async function countRowsOf(client: pg.Client, tenantId: string, table: string): Promise<number> {
  const { rows } = await behindWall(client, tenantId, () =>
    client.query<{ rows: number }>(`select count(*)::int as rows from ${pg.escapeIdentifier(table)} where tenant_id = $1`, [
      tenantId,
    ]),
  )
  return rows[0]?.rows ?? 0
}

/** What operators decide of a tenant, which the tenant reads and may not write. */
const writtenByOperators: ReadonlySet<string> = new Set(['quota_overrides', 'tenant_prices', 'credits'])

/** Where rows are copied to: as `bulkhead_app`, and as `bulkhead_platform`. */
export type CopyTarget = { app: pg.Client; platform: pg.Pool }

/**
 * Copies all the tenant's rows, table by table, each after those that it refers to, a batch at a time in the order of the primary
 * key. `source` connects as `bulkhead_app`; nobody else may write these rows meanwhile. The tenant's own row must be there.
 */
export async function copyRows(source: pg.Client, target: CopyTarget, tenantId: string, onProgress: CopyProgress): Promise<void> {
  for (const table of originalTables) await copyTable(source, target, tenantId, table, onProgress)
}

async function copyTable(
  source: pg.Client,
  target: CopyTarget,
  tenantId: string,
  { name }: TenantTable,
  onProgress: CopyProgress,
): Promise<void> {
  const table = pg.escapeIdentifier(name)
  const key = await primaryKey(source, name)
  const columns = key.map(({ column }) => pg.escapeIdentifier(column)).join(', ')
  const places = key.map(({ type }, index) => `$${index + 3}::${type}`).join(', ')
  const keyOf = `array[${key.map(({ column }) => `${pg.escapeIdentifier(column)}::text`).join(', ')}]`
  const read = async (after: string[] | null, limit: number): Promise<{ row: string; key: string[] }[]> => {
    const { rows } = await behindWall(source, tenantId, () =>
      source.query(
        `select row_to_json(t)::text as row, ${keyOf} as key from ${table} t
         where tenant_id = $1 ${after ? `and (${columns}) > (${places})` : ''} order by ${columns} limit $2`,
        [tenantId, limit, ...(after ?? [])],
      ),
    )
    return rows
  }
  let last: string[] | null = null
  let limit = firstBatchRows
  for (let copied = 0; ; ) {
    const rows = await read(last, limit)
    const end = rows.at(-1)
    if (!end) return
    const insert = `insert into ${table} select * from json_populate_recordset(null::${table}, $1::json)`
    const values = [`[${rows.map(({ row }) => row).join(',')}]`]
    if (writtenByOperators.has(name)) await target.platform.query(insert, values)
    else await behindWall(target.app, tenantId, () => target.app.query(insert, values))
    last = end.key
    copied += rows.length
    onProgress(name, copied)
    const bytes = rows.reduce((sum, { row }) => sum + row.length, 0)
    limit = Math.max(1, Math.min(batchRows, Math.floor((batchBytes * rows.length) / bytes)))
  }
}

/** The columns of the table's primary key, in its order, with their types. */
async function primaryKey(client: pg.Client, table: string): Promise<{ column: string; type: string }[]> {
  const { rows } = await client.query<{ column: string; type: string }>(
    `select a.attname as column, format_type(a.atttypid, a.atttypmod) as type
     from pg_index i cross join unnest(i.indkey) with ordinality as k (attnum, place)
       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where i.indisprimary and i.indrelid = $1::regclass order by k.place`,
    [pg.escapeIdentifier(table)],
  )
  return rows
}
