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
  /** Every row that its tables held in the beginning, by their names, as the superuser sees them. */
  beginning: ReadonlyMap<string, StoredRow[]>
  /**
   * The tables whose rows were inserted, updated or deleted since this was asked last, by their names, with every row that they held, as
   * the superuser sees them. They hold what they did in the beginning from then on.
   */
  takeStock(): Promise<Map<string, StoredRow[]>>
  /** The columns that can hold what a tenant wrote. */
  textColumns(): Promise<{ table: string; column: string }[]>
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

  await admin.query(stockTaking)
  const stock = await admin.query<{ name: string; rows: Row[] }>(
    'insert into beginning select name, rows_of(name) from unnest($1::text[]) as name returning name, rows',
    [tables],
  )
  const beginning = new Map(stock.rows.map(stored))
  await admin.query(noteWrites(await wholeTables(admin)))
  const pool = new TenantPool({ connectionString: database.appUrl, max: 4, shared: 1 })
  const data = new TenantData(pool, { filter: walls.filter })
  return {
    data,
    tables,
    beginning,
    takeStock: async () => {
      // Asked after each write. Under a name it is planned once.
      const { rows } = await admin.query<{ name: string; rows: Row[] }>({ name: 'stock', text: 'select * from take_stock()' })
      return new Map(rows.map(stored))
    },
    textColumns: async () => {
      const found = await admin.query<{ table: string; column: string }>(
        `select table_name as table, column_name as column from information_schema.columns
         where table_schema = 'public' and table_name = any ($1) and udt_name in ('text', '_text', 'json', 'jsonb')`,
        [tables],
      )
      return found.rows
    },
    async close() {
      await data.close()
      await admin.end()
      await database.drop()
    },
  }
}

function stored({ name: table, rows }: { name: string; rows: Row[] }): [string, StoredRow[]] {
  return [table, rows.map((row) => ({ table, row }))]
}

/**
 * Statements that make `take_stock`, which answers what tables that are named in `touched` hold, and makes them hold what `beginning`
 * says. All in one call: there are thousands of writes to look at. As a replica, Postgres fires no triggers, those of foreign keys
 * included: the rows held them when they were read.
 */
const stockTaking = `
  create unlogged table touched (name text);
  create unlogged table beginning (name text primary key, rows jsonb not null);
  create function rows_of(name text) returns jsonb language plpgsql as $$
    declare rows jsonb;
    begin
      execute format('select coalesce(jsonb_agg(to_jsonb(t)), ''[]'') from %I t', name) into rows;
      return rows;
    end $$;
  create function take_stock() returns table (name text, rows jsonb) language plpgsql as $$
    begin
      for name in with done as (delete from touched returning touched.name) select distinct done.name from done loop
        rows := rows_of(name);
        return next;
        perform set_config('session_replication_role', 'replica', true);
        execute format('delete from %I', name);
        execute format('insert into %1$I select b.* from beginning, jsonb_populate_recordset(null::%1$I, beginning.rows) b
          where beginning.name = $1', name) using name;
      end loop;
    end $$;`

/** Statements that make each of the tables, which are no partitions, leave its name in `touched` whenever rows of it are written. */
function noteWrites(tables: readonly string[]): string {
  const triggers = tables.map(
    (table) =>
      `create trigger note_write after insert or update or delete on ${table} for each row execute function note_write();`,
  )
  return `create function note_write() returns trigger language plpgsql security definer set search_path = public
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
