import pg from 'pg'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { insertRows } from './insert-rows.ts'
import { type Party, price, type Row } from './rows.ts'

/** Which walls stand. */
export type Walls = { filter: boolean; rowLevelSecurity: boolean }

/** A row as Postgres holds it, with the name of its table. */
export type StoredRow = { table: string; row: Row }

/** A database with these parties in it, and nobody else. */
export type World = {
  data: TenantData
  /** The tables that hold tenants' rows. */
  tables: string[]
  beginning: StoredRow[]
  /** Every row of every tenant, as the superuser sees them. */
  stored(): Promise<StoredRow[]>
  /** The tables whose rows were inserted, updated or deleted since this was asked last. */
  touched(): Promise<string[]>
  /** The columns that can hold what a tenant wrote. */
  textColumns(): Promise<{ table: string; column: string }[]>
  /** Makes the rows of these tables what they were in the beginning. */
  reset(tables: readonly string[]): Promise<void>
  close(): Promise<void>
}

/** A new database in which only `walls` stand. */
export async function openWorld(walls: Walls, parties: Party[]): Promise<World> {
  const database = await createTestDatabase()
  const admin = new pg.Client({ connectionString: database.adminUrl })
  await admin.connect()
  const tables = await tenantTables(admin)
  // A wall that stands alone has no grants to lean on either.
  if (!(walls.filter && walls.rowLevelSecurity))
    await admin.query(`grant select, insert, update, delete on ${tables.join(', ')} to bulkhead_app`)
  if (!walls.rowLevelSecurity)
    await admin.query(tables.map((table) => `alter table ${table} disable row level security;`).join('\n'))
  await seed(database.adminUrl, parties)

  const ofEach = (select: (table: string) => string) => tables.map(select).join(' union all ')
  // Asked after each write. Under a name it is planned once.
  const storedQuery = {
    name: 'stored',
    text: ofEach((table) => `select '${table}' as table, to_jsonb(t) as row from ${table} t`),
  }
  const stored = async () => (await admin.query<StoredRow>(storedQuery)).rows
  const beginning = await stored()
  await admin.query(noteWrites(await wholeTables(admin)))
  const restore = (table: string) => {
    const rows = beginning.filter((each) => each.table === table).map(({ row }) => row)
    const literal = pg.escapeLiteral(JSON.stringify(rows))
    return `delete from ${table}; insert into ${table} select * from jsonb_populate_recordset(null::${table}, ${literal});`
  }
  const pool = new TenantPool({ connectionString: database.appUrl, max: 4, shared: 1 })
  const data = new TenantData(pool, { filter: walls.filter })
  return {
    data,
    tables,
    beginning,
    stored,
    touched: async () => {
      const { rows } = await admin.query<{ name: string }>({ name: 'touched', text: 'delete from touched returning name' })
      return [...new Set(rows.map(({ name }) => name))]
    },
    textColumns: async () => {
      const found = await admin.query<{ table: string; column: string }>(
        `select table_name as table, column_name as column from information_schema.columns
         where table_schema = 'public' and table_name = any ($1) and udt_name in ('text', '_text', 'json', 'jsonb')`,
        [tables],
      )
      return found.rows
    },
    // As a replica, Postgres fires no triggers, those of foreign keys included: the rows held them when they were read.
    reset: async (changed) => {
      if (changed.length === 0) return
      await admin.query(`begin; set local session_replication_role = replica; ${changed.map(restore).join('\n')} commit`)
    },
    async close() {
      await data.close()
      await admin.end()
      await database.drop()
    },
  }
}

/** Statements that make each of the tables, which are no partitions, leave its name in `touched` whenever rows of it are written. */
function noteWrites(tables: readonly string[]): string {
  const triggers = tables.map(
    (table) =>
      `create trigger note_write after insert or update or delete on ${table} for each row execute function note_write();`,
  )
  return `create unlogged table touched (name text);
    create function note_write() returns trigger language plpgsql security definer set search_path = public
      as $$ begin insert into touched values (tg_table_name); return null; end $$;
    ${triggers.join('\n')}`
}

async function wholeTables(admin: pg.Client): Promise<string[]> {
  const { rows } = await admin.query<{ relname: string }>('select relname::text from pg_class where relispartition')
  const parts = rows.map(({ relname }) => relname)
  return (await tenantTables(admin)).filter((table) => !parts.includes(table))
}

/** The tables that hold tenants' rows, from Postgres itself. */
export async function tenantTables(admin: pg.Client): Promise<string[]> {
  const { rows } = await admin.query<{ name: string }>(
    `select c.relname::text as name from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
      and (c.relname = 'tenants' or exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'))`,
  )
  return rows.map(({ name }) => name)
}

/** Inserts the parties' rows as the superuser, past both walls, with the price that all refer to. */
export async function seed(connectionString: string, parties: Party[]): Promise<void> {
  const admin = new pg.Client({ connectionString })
  await admin.connect()
  try {
    await insertRows(admin, [{ Price: price }, ...parties.map(({ rows }) => rows)])
  } finally {
    await admin.end()
  }
}

type Operation = (args: unknown) => Promise<unknown>
export type Delegates = Readonly<Record<string, Readonly<Record<string, Operation>>>>

/** The client, with its models by name: which operation on which model is a value here, too varied for its types. */
export function delegates(client: object): Delegates {
  return client as unknown as Delegates
}

export async function operate(db: Delegates, model: string, operation: string, args: unknown): Promise<unknown> {
  const send = db[model.charAt(0).toLowerCase() + model.slice(1)]?.[operation]
  if (!send) throw new Error(`${model} has no operation ${operation}.`)
  return send(args)
}
