// @module-tag rule-1
// @module-tag rule-2
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { inspectDatabase } from '../../src/data/boot-gate.ts'
import { adminQuery } from '../support/database-url.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})

afterAll(() => database.drop())

/** What the gate says after `change`, which is undone by `undo`. */
async function refusalsAfter(change: string, undo: string): Promise<string[]> {
  await adminQuery(database.adminUrl, change)
  try {
    return (await inspectDatabase(database.appUrl)).refusals
  } finally {
    await adminQuery(database.adminUrl, undo)
  }
}

it('lets a migrated database pass', async () => {
  expect(await inspectDatabase(database.appUrl)).toEqual({ refusals: [], warnings: [] })
})

it('refuses a role that no policy binds', async () => {
  const { refusals } = await inspectDatabase(database.adminUrl)
  expect(refusals).toEqual(expect.arrayContaining([expect.stringMatching(/is a superuser/)]))
})

it('refuses a role that could become one', async () => {
  const [role, heir] = ['bypasser', 'heir'].map((name) => `${name}_${randomBytes(4).toString('hex')}`)
  // Not the application's own: roles are the whole server's, and other tests start the platform meanwhile.
  const url = new URL(database.appUrl)
  url.username = heir ?? ''
  await adminQuery(
    database.adminUrl,
    `CREATE ROLE ${role} BYPASSRLS; CREATE ROLE ${heir} LOGIN PASSWORD '${url.password}' IN ROLE bulkhead_app, ${role}`,
  )
  try {
    expect((await inspectDatabase(url.href)).refusals).toEqual([
      `The database role ${heir}, through its membership in ${role}, may bypass row-level security.`,
    ])
  } finally {
    await adminQuery(database.adminUrl, `DROP ROLE ${heir}; DROP ROLE ${role}`)
  }
})

it.each([
  ['NO FORCE ROW LEVEL SECURITY', 'FORCE ROW LEVEL SECURITY'],
  ['DISABLE ROW LEVEL SECURITY', 'ENABLE ROW LEVEL SECURITY'],
])('refuses a table with %s', async (open, close) => {
  expect(await refusalsAfter(`ALTER TABLE messages ${open}`, `ALTER TABLE messages ${close}`)).toEqual([
    'Row-level security is not forced on the table messages.',
  ])
})

it('refuses a tenant table without its wall, a new one too', async () => {
  expect(
    await refusalsAfter('ALTER POLICY tenant_wall ON runs RENAME TO kept; DROP POLICY kept ON runs', wallOf('runs')),
  ).toEqual(['The table runs has no restrictive tenant policy.'])
  expect(await refusalsAfter('CREATE TABLE notes (tenant_id uuid)', 'DROP TABLE notes')).toEqual([
    'Row-level security is not forced on the table notes.',
  ])
})

function wallOf(table: string): string {
  return `CREATE POLICY tenant_wall ON ${table} AS RESTRICTIVE TO bulkhead_app
    USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))`
}
