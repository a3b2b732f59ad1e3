import pg from 'pg'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { originalTables } from '../../src/data/tenant-tables.ts'
import type { TestDatabase } from './postgres.ts'

/** Runs `work` as the superuser. */
export async function asAdmin<T>(
  { adminUrl }: Pick<TestDatabase, 'adminUrl'>,
  work: (admin: pg.Client) => Promise<T>,
): Promise<T> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.end()
  }
}

/** What a query answers to the superuser. */
export function selectRows(database: Pick<TestDatabase, 'adminUrl'>, query: string): Promise<Record<string, unknown>[]> {
  return asAdmin(database, async (admin) => (await admin.query(query)).rows)
}

/** Every row of the tenant in a database, by table, in no order that tells anything. */
export function rowsOf(database: TestDatabase, tenantId: string): Promise<Record<string, string[]>> {
  return asAdmin(database, async (admin) => {
    const found: Record<string, string[]> = {}
    for (const { name } of originalTables) {
      const { rows } = await admin.query(`select t::text as row from ${name} t where tenant_id = $1 order by t::text`, [tenantId])
      found[name] = rows.map(({ row }) => row)
    }
    return found
  })
}

/** Gives the tenant conversations, with titles of up to 500 bytes that are hard to write down. */
export function addConversations(database: TestDatabase, tenantId: string, count: number): Promise<unknown> {
  return asAdmin(database, (admin) =>
    admin.query(
      `insert into conversations (id, tenant_id, agent_id, title, created_at)
       select gen_random_uuid(), $1, (select id from agents where tenant_id = $1 limit 1), repeat(E'ä"\\\\\\n ', i % 100), now()
       from generate_series(1, $2) i`,
      [tenantId, count],
    ),
  )
}

/** Adds a row of each of these models, in their order. */
export function addRows(
  database: TestDatabase,
  rows: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
): Promise<void> {
  return asAdmin(database, async (admin) => {
    for (const [model, row] of Object.entries(rows)) {
      const columns = Object.keys(row).map((field) => `"${field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}"`)
      const values = Object.entries(row).map(([field, value]) => (jsonFields.has(field) ? JSON.stringify(value) : value))
      const places = columns.map((_, index) => `$${index + 1}`)
      await admin.query(`insert into ${dataModel[model]?.table} (${columns.join(', ')}) values (${places.join(', ')})`, values)
    }
  })
}

/** What pg would write as arrays of Postgres. */
const jsonFields: ReadonlySet<string> = new Set(['branding', 'turns', 'details', 'payload'])
