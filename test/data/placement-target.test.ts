import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { adminQuery, withDatabase } from '../support/database-url.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin, rowsOf, selectRows } from '../support/tenant-rows.ts'

let story: Story
let own: TestDatabase
const role = `guest_${randomBytes(4).toString('hex')}`

beforeAll(async () => {
  story = await startStory()
  await adminQuery(story.database.adminUrl, `CREATE ROLE ${role} LOGIN PASSWORD 'guest'`)
})

beforeEach(async () => {
  own = await createTestDatabase({ empty: true })
  return () => own.drop()
})

afterAll(async () => {
  await adminQuery(story.database.adminUrl, `DROP ROLE ${role}`)
  await story.close()
})

/** Why a new tenant cannot be moved there. It is as it was, and the catalogue knows of no such database. */
async function refusal(adminUrl: string): Promise<string> {
  const { tenant } = await story.tenant()
  const before = await rowsOf(story.database, tenant.id)
  await using moving = testMover(story.database)
  const message = await moving.mover.place(tenant.name, adminUrl).then(
    () => 'accepted',
    ({ message }) => message,
  )
  expect(await rowsOf(story.database, tenant.id)).toEqual(before)
  expect(await story.catalog.findTenant(tenant.id)).toMatchObject({ status: 'ACTIVE', databaseId: null, fencedAt: null })
  expect(await selectRows(story.database, 'select from tenant_moves')).toEqual([])
  return message
}

describe('a database is refused, in one line that says why,', () => {
  it('when nothing listens there', async () => {
    expect(await refusal('postgres://postgres:secret@127.0.0.1:9/nowhere')).toBe(
      'The database of --database cannot be reached as postgres: connect ECONNREFUSED 127.0.0.1:9. Check the URL.',
    )
  })

  it('when it lets nobody in with this password', async () => {
    const url = new URL(own.adminUrl)
    url.password = 'wrong'
    expect(await refusal(url.href)).toMatch(
      /^The database of --database cannot be reached as postgres: password authentication failed .*Check the URL\.$/,
    )
  })

  it("when it is not an administrator's URL", async () => {
    const url = withDatabase(own.adminUrl, new URL(own.adminUrl).pathname.slice(1), { user: role, password: 'guest' })
    expect(await refusal(url)).toMatch(
      /^The database of --database cannot be used\. The roles cannot be set up: .* must be a superuser, or own the database/,
    )
  })

  it('when it is the one that tenants share, under whichever name', async () => {
    const url = new URL(story.database.adminUrl)
    url.hostname = 'localhost'
    expect(await refusal(url.href)).toBe('The database of --database is the shared one. To move a tenant there, say --pooled.')
  })

  it('when it holds something else', async () => {
    await adminQuery(own.adminUrl, 'CREATE TABLE payroll (id int)')
    expect(await refusal(own.adminUrl)).toBe('The database of --database holds other tables (payroll). Make an empty one.')
  })

  it('when its walls are not whole', { tags: ['rule-1'] }, async () => {
    await using moving = testMover(story.database)
    await moving.mover.place((await story.tenant()).tenant.name, own.adminUrl)
    await adminQuery(own.adminUrl, 'ALTER TABLE messages NO FORCE ROW LEVEL SECURITY')
    await expect(moving.mover.place((await story.tenant()).tenant.name, own.adminUrl)).rejects.toThrow(
      'The database of --database would not keep tenants apart. Row-level security is not forced on the table messages.',
    )
    await asAdmin(story.database, (admin) => admin.query('delete from tenant_moves'))
  })

  it('when it holds rows of the tenant that nobody moved there', async () => {
    const { tenant } = await story.tenant()
    await using moving = testMover(story.database)
    await moving.mover.place((await story.tenant()).tenant.name, own.adminUrl)
    await adminQuery(
      own.adminUrl,
      `insert into tenants (id, name, plan) values ('${tenant.id}', 'stray', 'FREE');
       insert into members (id, tenant_id, name, email, role) values (gen_random_uuid(), '${tenant.id}', 'm', 'm', 'ADMIN')`,
    )
    await expect(moving.mover.place(tenant.name, own.adminUrl)).rejects.toThrow(`That database holds rows of ${tenant.name}`)
    await asAdmin(story.database, (admin) => admin.query('delete from tenant_moves'))
  })
})

it('a tenant that there is not, or that is erased, is not moved', async () => {
  await using moving = testMover(story.database)
  await expect(moving.mover.place('nobody', own.adminUrl)).rejects.toThrow('There is no tenant nobody. Give its name or its id.')
  const { tenant } = await story.tenant()
  await adminQuery(story.database.adminUrl, `update tenants set status = 'ERASED' where id = '${tenant.id}'`)
  await expect(moving.mover.place(tenant.name, own.adminUrl)).rejects.toThrow('is erased. There is nothing to move.')
})

it('the URLs cannot be read in the catalogue, and not be put in the place of one another', { tags: ['rule-15'] }, async () => {
  const { tenant } = await story.tenant()
  await using moving = testMover(story.database)
  await moving.mover.place(tenant.name, own.adminUrl)
  const [row] = await selectRows(story.database, 'select name, app_url, platform_url, admin_url, key_id from databases')
  const stored = Object.values(row ?? {}).map((value) => (Buffer.isBuffer(value) ? value.toString('latin1') : String(value)))
  for (const url of [own.adminUrl, own.appUrl, own.platformUrl]) {
    const { password } = new URL(url)
    expect(password.length).toBeGreaterThan(5)
    for (const text of stored) expect(text).not.toContain(password)
  }
  for (const text of stored.slice(1)) expect(text).not.toMatch(/postgres|bulkhead|127\.0\.0\.1/)

  await asAdmin(story.database, (admin) => admin.query('update databases set app_url = admin_url'))
  await expect(story.catalog.placements.list()).rejects.toThrow()
})
