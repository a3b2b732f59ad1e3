import pg from 'pg'
import type { PartyTag } from '../tags.ts'
import type { Mutant } from './mutant.ts'

/** The tables that hold tenants' rows, with the column that says whose a row is. */
const walled = `(
  select c.oid, c.relname::text as name, a.attname::text as wall, a.attnum from pg_class c join pg_attribute a on a.attrelid = c.oid
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
    and a.attname = case c.relname when 'tenants' then 'id' else 'tenant_id' end)`
const roles = `(select oid, rolname::text as role from pg_roles where rolname in ('bulkhead_app', 'bulkhead_platform', 'bulkhead_eraser'))`
const columnsOf = (table: string, numbers: string, wall: string) => `array(
  select quote_ident(attname) from unnest(${numbers}) with ordinality c (attnum, place) join pg_attribute a using (attnum)
  where a.attrelid = ${table} and a.attnum <> ${wall} order by place)`

type Policy = { table: string; name: string; permissive: boolean; using: string | null; check: string | null; roles: string[] }
type Key = { table: string; name: string; columns: string[]; target: string; referred: string[]; actions: string }

/** Every wall in this database, taken away. Read from its catalogue, so that a new table's are there by themselves. */
export async function databaseMutants(adminUrl: string): Promise<Mutant[]> {
  const client = new pg.Client({ connectionString: adminUrl })
  await client.connect()
  const rowsOf = async <Row extends pg.QueryResultRow>(sql: string) => (await client.query<Row>(sql)).rows
  try {
    const policies = await rowsOf<Policy>(
      `select t.name as table, p.polname as name, p.polpermissive as permissive, pg_get_expr(p.polqual, t.oid) as using,
         pg_get_expr(p.polwithcheck, t.oid) as check, array(select role from ${roles} r where r.oid = any (p.polroles)) as roles
       from ${walled} t join pg_policy p on p.polrelid = t.oid order by 1, 2`,
    )
    const tables = await rowsOf<{ table: string }>(`select name as table from ${walled} t order by 1`)
    const keys = await rowsOf<Key>(
      `select f.name as table, k.conname as name, t.name as target, ${columnsOf('f.oid', 'k.conkey', 'f.attnum')} as columns,
         ${columnsOf('t.oid', 'k.confkey', 't.attnum')} as referred, substring(pg_get_constraintdef(k.oid) from ' ON .*') as actions
       from pg_constraint k join ${walled} f on f.oid = k.conrelid join ${walled} t on t.oid = k.confrelid
       where k.contype = 'f' and array_length(k.conkey, 1) > 1 order by 1, 2`,
    )
    const unique = await rowsOf<{ table: string; name: string; columns: string[] }>(
      `select t.name as table, i.indexrelid::regclass::text as name, ${columnsOf('t.oid', 'i.indkey::int2[]', 't.attnum')} as columns
       from pg_index i join ${walled} t on t.oid = i.indrelid
       where i.indisunique and i.indkey[0] = t.attnum and i.indnkeyatts > 1 order by 1, 2`,
    )
    const grants = await rowsOf<{ table: string; wall: string; role: string }>(
      `select name as table, wall, role from ${walled} t, ${roles} r
       where not has_column_privilege(r.oid, t.oid, t.attnum, 'UPDATE') order by 1, 3`,
    )
    return [
      ...policies.flatMap(policyMutants),
      ...tables.flatMap(({ table }) => tableMutants(table)),
      ...keys.flatMap(keyMutants),
      ...unique.map(uniqueMutant),
      ...grants.map(grantMutant),
    ]
  } finally {
    await client.end()
  }
}

function policyMutants({ table, name, permissive, using, check, roles: names }: Policy): Mutant[] {
  const wall = `${using} ${check}`
  const between: PartyTag = wall.includes('app.current_user') ? 'two-users' : 'two-tenants'
  // Without a permissive policy a table shows nothing to anybody: no leak, but a test must miss the rows. The parties that
  // two-worlds.ts knows are all of the application.
  const leaks = !permissive && wall.includes('app.current_')
  const mutant = (kind: string, what: string, sql: string, role = 'bulkhead_app'): Mutant => ({
    ...{ kind, name: what, table, change: { sql }, between },
    witnesses: leaks && role === 'bulkhead_app' ? ['policies-alone', 'postgres'] : ['postgres'],
  })
  const alter = `alter policy ${name} on ${table}`
  const open = (clause: string) => mutant('policy opened', `${alter} ${clause} (true)`, `${alter} ${clause} (true)`)
  const halves = leaks && using !== null && check !== null ? [open('using'), open('with check')] : []
  const fewer = names.map((role) => ({ role, others: names.filter((each) => each !== role) }))
  return [
    mutant('policy', `drop policy ${name} on ${table}`, `drop policy ${name} on ${table}`),
    ...halves,
    ...fewer.flatMap(({ role, others }) =>
      others.length > 0
        ? [mutant('policy of a role', `${alter} no longer to ${role}`, `${alter} to ${others.join(', ')}`, role)]
        : [],
    ),
  ]
}

function tableMutants(table: string): Mutant[] {
  const mutant = (kind: string, change: string, witnesses: Mutant['witnesses']): Mutant => {
    const sql = `alter table ${table} ${change}`
    return { kind, name: sql, table, change: { sql }, witnesses, between: 'two-tenants' }
  }
  return [
    mutant('enable', 'disable row level security', ['policies-alone', 'postgres']),
    mutant('force', 'no force row level security', ['postgres']),
  ]
}

function keyMutants({ table, name, columns, target, referred, actions }: Key): Mutant[] {
  const drop = `alter table ${table} drop constraint ${name}`
  const simple = `${table} (${columns}) references ${target} (${referred})`
  const unique = `create unique index on ${target} (${referred})`
  const add = `alter table ${table} add constraint ${name} foreign key (${columns}) references ${target} (${referred})${actions ?? ''}`
  const mutant = (kind: string, what: string, sql: string): Mutant => {
    return { kind, name: what, table, change: { sql }, witnesses: ['both-walls', 'postgres'], between: 'two-tenants' }
  }
  return [
    { ...mutant('foreign key', drop, drop), witnesses: ['postgres'] },
    mutant('foreign key without tenant', simple, `${drop}; ${unique}; ${add}`),
  ]
}

/** The key that holds for all tenants together. The old one may stay: what the new one allows, it allows. */
function uniqueMutant({ table, name, columns }: { table: string; name: string; columns: string[] }): Mutant {
  const sql = `create unique index on ${table} (${columns})`
  return {
    kind: 'unique key without tenant',
    name: `${name}: ${table} (${columns})`,
    table,
    change: { sql },
    witnesses: ['postgres'],
  }
}

function grantMutant({ table, wall, role }: { table: string; wall: string; role: string }): Mutant {
  const sql = `grant update (${wall}) on ${table} to ${role}`
  return { kind: 'update of the tenant', name: sql, table, change: { sql }, witnesses: ['postgres'] }
}
