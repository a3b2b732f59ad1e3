import { afterAll, beforeAll, expect, it } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { openSchemaEngine, readSchema, type SchemaEngine } from '../support/schema-engine.ts'

let database: TestDatabase
let engine: SchemaEngine

beforeAll(async () => {
  database = await createTestDatabase()
  engine = await openSchemaEngine(database.adminUrl)
})

afterAll(async () => {
  await engine.close()
  await database.drop()
})

it('leaves no difference between schema.prisma and a migrated database', async () => {
  expect(await engine.difference(await readSchema())).toBeNull()
})

it('would notice one', async () => {
  const schema = await readSchema()
  const optional = schema.replace(/(tokensUsed\s+Int) /, '$1? ')
  expect(await engine.difference(optional)).toContain('ALTER TABLE "messages" ALTER COLUMN "tokens_used" DROP NOT NULL')
  const index = schema.replace('@@index([tenantId, finishedAt, queuedAt, id])', '')
  expect(await engine.difference(index)).toContain('DROP INDEX "runs_tenant_id_finished_at_queued_at_id_idx"')
})

it('is a history in which Prisma finds nothing amiss and nothing to deploy', async () => {
  expect(await engine.diagnose()).toEqual({
    editedMigrationNames: [],
    failedMigrationNames: [],
    hasMigrationsTable: true,
    history: null,
  })
  expect(await engine.deploy()).toEqual([])
})
