import pg from 'pg'
import { raiseWall } from './scoped-query.ts'
import { type TenantTable, tenantTables } from './tenant-tables.ts'

/** How many there are of each kind: of rows by table, of keys by what they hold. */
export type Counts = Readonly<Record<string, number>>

/** Rows that one transaction deletes at most. */
const batch = 5_000

/**
 * Makes the transaction in progress the eraser's, for one tenant: it may delete rows and see whose they are, no more. Ends with the
 * transaction, or with `RESET ROLE`.
 */
export async function becomeEraser(client: pg.ClientBase, tenantId: string): Promise<void> {
  await raiseWall(client, { tenantId, userId: null })
  await client.query('SET LOCAL ROLE bulkhead_eraser')
}

/** The tenant's rows in every table that has any of some tenant's. For the eraser. */
export async function countRows(client: pg.ClientBase): Promise<Counts> {
  const each = tenantTables.map(({ name }) => {
    return `select ${pg.escapeLiteral(name)} as name, count(*) as rows from ${pg.escapeIdentifier(name)} where ${own}`
  })
  const { rows } = await client.query<{ name: string; rows: string }>(each.join(' union all '))
  return Object.fromEntries(rows.map(({ name, rows }) => [name, Number(rows)]))
}

/** Deletes some of the tenant's rows. Answers whether there are more. For the eraser. */
export async function eraseSomeRows(client: pg.ClientBase, { name }: TenantTable): Promise<boolean> {
  const table = pg.escapeIdentifier(name)
  // The eraser may read no column by which rows could be told apart: it deletes them where a cursor stands.
  await client.query(`DO $$
    DECLARE
      rows CURSOR FOR SELECT tenant_id FROM ${table} WHERE ${own};
    BEGIN
      OPEN rows;
      FOR i IN 1..${batch} LOOP
        MOVE rows;
        EXIT WHEN NOT FOUND;
        DELETE FROM ${table} WHERE CURRENT OF rows;
      END LOOP;
    END $$`)
  const { rowCount } = await client.query(`select from ${table} where ${own} limit 1`)
  return rowCount !== 0
}

/** Also without the policies that say so. */
const own = "tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid"
