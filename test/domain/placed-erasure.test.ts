import pg from 'pg'
import { expect, it } from 'vitest'
import { tenantTables } from '../../src/data/tenant-tables.ts'
import { eraseTenant } from '../../src/domain/erasure.ts'
import { signInOperator } from '../support/operator.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { startStory } from '../support/story.ts'

/** Every row of the database that has `text` in some column, by its table. */
async function traces({ adminUrl }: TestDatabase, text: string): Promise<string[]> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  const found: string[] = []
  for (const name of ['tenants', ...tenantTables.map((table) => table.name)]) {
    const { rowCount } = await admin.query(`select from ${name} t where to_jsonb(t)::text like '%' || $1 || '%'`, [text])
    if (rowCount) found.push(name)
  }
  await admin.end()
  return found
}

it('a tenant with a database of its own is erased there, and its name in both', { timeout: 60_000 }, async () => {
  const [story, own] = await Promise.all([startStory(), createTestDatabase({ empty: true })])
  const { tenant } = await story.tenant()
  {
    await using moving = testMover(story.database)
    await moving.mover.place(tenant.name, own.adminUrl)
  }
  await story.catalog.placements.refresh()
  expect(story.catalog.placements.databaseOf(tenant.id)).not.toBeNull()
  expect(await traces(own, tenant.name)).toContain('agents')

  const operator = await signInOperator(story)
  const { certificate } = await eraseTenant(operator, { tenantId: tenant.id, confirmName: tenant.name })
  expect(certificate.found).toMatchObject({ members: 2, agents: 1 })
  expect(certificate.erased).toMatchObject({ members: 2, agents: 1 })
  expect([await traces(own, tenant.name), await traces(story.database, tenant.name)]).toEqual([[], []])
  const left = await traces(own, tenant.id)
  expect(left).toEqual(['tenants'])
  await story.close()
  await own.drop()
})
