// @module-tag rule-1
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { newId } from '../../src/domain/ids.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { tenantParty } from './rows.ts'
import { tableOf } from './tags.ts'
import { seed, tenantTables } from './world.ts'

// What Postgres holds by itself of each table, whoever sends whatever: raw SQL as each role. The tables are those of the data
// model, so that what Postgres lost of one is missed.
const [own, other] = [tenantParty('Own'), tenantParty('Other')]
const tables = Object.keys(own.rows).map((model) => ({ model, table: tableOf.get(model) ?? model }))
const roles = ['bulkhead_app', 'bulkhead_platform', 'bulkhead_eraser']
const wallOf = (table: string) => (table === 'tenants' ? 'id' : 'tenant_id')
const refused = { code: '42501', message: expect.stringContaining('permission denied') }

let database: TestDatabase
let admin: pg.Client

beforeAll(async () => {
  database = await createTestDatabase()
  admin = new pg.Client({ connectionString: database.adminUrl })
  await admin.connect()
  await seed(database.adminUrl, [own, other])
})

afterAll(async () => {
  await admin.end()
  await database.drop()
})

type Setting = { role?: string; tenant?: string; keys?: boolean }

/** Answers the rows of the last statement, sent in one transaction that leaves nothing. Without `keys`, no foreign key is checked. */
async function trying({ role, tenant = '', keys = true }: Setting, ...statements: string[]): Promise<unknown[]> {
  await admin.query('begin')
  try {
    if (!keys) await admin.query('set local session_replication_role = replica')
    if (role) await admin.query(`set local role ${role}`)
    await admin.query(`select set_config('app.current_tenant', $1, true)`, [tenant])
    let rows: unknown[] = []
    for (const statement of statements) rows = (await admin.query(statement)).rows
    return rows
  } finally {
    await admin.query('rollback')
  }
}

async function may(role: string, privilege: string, table: string): Promise<boolean> {
  const held = privilege === 'DELETE' ? 'has_table_privilege' : 'has_any_column_privilege'
  return (await admin.query(`select ${held}($1, $2, $3) as held`, [role, table, privilege])).rows[0].held
}

it('every tenant table is tried here', async () => {
  expect((await tenantTables(admin)).toSorted()).toEqual(tables.map(({ table }) => table).toSorted())
})

for (const { model, table } of tables) {
  const wall = wallOf(table)
  const owners = `select array_agg(distinct ${wall}) as owners from ${table}`
  const [mine, theirs] = [own, other].map((party) => party.wall.tenantId) as [string, string]

  describe(table, { tags: ['postgres', table] }, () => {
    it('shows a tenant its own rows, and nobody any without a tenant', async () => {
      expect(await trying({ role: 'bulkhead_app', tenant: mine }, owners)).toEqual([{ owners: [mine] }])
      for (const tenant of ['', newId()])
        expect(await trying({ role: 'bulkhead_app', tenant }, owners)).toEqual([{ owners: null }])
    })

    it('shows its owner nothing', async () => {
      expect(await trying({ role: 'bulkhead_owner', tenant: mine }, owners)).toEqual([{ owners: null }])
    })

    it('takes the same row from another tenant, key for key', { tags: ['rule-10'] }, async () => {
      const twin = JSON.stringify({ [wall]: newId(), ...(table === 'tenants' && { name: 'twin' }) })
      const copy = `insert into ${table} select (jsonb_populate_record(t, '${twin}')).* from ${table} t where ${wall} = '${mine}'`
      await expect(trying({ keys: false }, copy)).resolves.toEqual([])
    })

    it('lets no role move a row to another tenant', { tags: ['rule-11'] }, async () => {
      const move = `update ${table} set ${wall} = '${theirs}'`
      for (const role of roles) await expect(trying({ role, tenant: mine }, move), role).rejects.toMatchObject(refused)
    })

    it('is erased for one tenant', { tags: ['roles'] }, async () => {
      const erase = [`delete from ${table}`, 'reset role', owners]
      const erased = trying({ role: 'bulkhead_eraser', tenant: mine, keys: false }, ...erase)
      if (await may('bulkhead_eraser', 'DELETE', table)) expect(await erased).toEqual([{ owners: [theirs] }])
      else await expect(erased).rejects.toMatchObject(refused)
    })

    it('is open to the platform as far as it has a grant', { tags: ['roles'] }, async () => {
      const platform = 'bulkhead_platform'
      if (await may(platform, 'SELECT', table))
        expect(await trying({ role: platform }, owners)).toEqual([{ owners: [mine, theirs].toSorted() }])
      if (await may(platform, 'INSERT', table)) {
        const kept = `create temporary table kept on commit drop as select * from ${table} where ${wall} = '${mine}'`
        const readable = `grant select on kept to ${platform}`
        const again = [`set local role ${platform}`, `insert into ${table} select * from kept`]
        await trying({ keys: false }, kept, readable, `delete from ${table}`, ...again)
      }
    })

    for (const [name, { from }] of Object.entries(dataModel[model]?.relations ?? {})) {
      if (from.length < 2) continue
      it(`cannot name another tenant's ${name}`, { tags: ['rule-9'] }, async () => {
        const columns = from.map((field) => field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`))
        const changed = columns.filter((column) => column !== wall).join(', ')
        const move = `update ${table} set (${changed}) = (select ${changed} from ${table} where ${wall} = '${theirs}') where ${wall} = '${mine}'`
        const attempt = trying({}, ...(await withoutOtherKeys(table, columns)), move)
        await expect(attempt).rejects.toMatchObject({ code: '23503' })
      })
    }
  })
}

/** Drops the foreign keys from and to the table but the one on these columns: each must hold alone. */
async function withoutOtherKeys(table: string, columns: string[]): Promise<string[]> {
  const { rows } = await admin.query<{ drop: string }>(
    `select format('alter table %s drop constraint %I', conrelid::regclass, conname) as drop from pg_constraint k
     where $1::regclass in (conrelid, confrelid) and contype = 'f' and not (conrelid = $1::regclass and $2 = array(
       select attname::text from unnest(conkey) with ordinality c (attnum, place) join pg_attribute a using (attnum)
       where a.attrelid = conrelid order by place))`,
    [table, columns],
  )
  return rows.map(({ drop }) => drop)
}
