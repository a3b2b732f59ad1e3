import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import pg from 'pg'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { migrate } from '../../src/data/migrate.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

const migrations = readdirSync(new URL('../../prisma/migrations', import.meta.url))
  .filter((name) => /^\d/.test(name))
  .sort()

let database: TestDatabase
let directory: string

beforeEach(async () => {
  database = await createTestDatabase({ empty: true })
  directory = await mkdtemp(join(tmpdir(), 'bulkhead-migrations-'))
})

afterEach(async () => {
  await database.drop()
  await rm(directory, { recursive: true })
})

async function query(sql: string, url = database.adminUrl): Promise<unknown[][]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows
  } finally {
    await client.end()
  }
}

const shipped = new URL('../../prisma/migrations/', import.meta.url)

/** The shipped migrations and `more`, in a directory of their own. */
async function migrationsAnd(more: Record<string, string>): Promise<URL> {
  await cp(shipped, directory, { recursive: true })
  for (const [name, sql] of Object.entries(more)) {
    await mkdir(join(directory, name))
    await writeFile(join(directory, name, 'migration.sql'), sql)
  }
  return pathToFileURL(`${directory}/`)
}

it('applies each migration once, however many start at the same time on an empty database', async () => {
  const progress: string[] = []
  const outcomes = await Promise.all(
    [1, 2, 3].map(() => migrate({ ...database, onProgress: (message) => progress.push(message) })),
  )
  const applied = outcomes.flatMap((outcome) => outcome.applied)
  expect(applied).toEqual(migrations)
  expect(progress.filter((message) => message.startsWith('applying'))).toHaveLength(applied.length)
  expect(
    await query('select migration_name, applied_steps_count, logs, rolled_back_at from _prisma_migrations order by 1'),
  ).toEqual(applied.map((name) => [name, 1, null, null]))
})

it('is safe to repeat, and lets the working roles in and nobody else', async () => {
  await migrate(database)
  expect(await migrate(database)).toEqual({ applied: [] })
  expect(await query('select count(*)::int from prices', database.appUrl)).toEqual([[0]])
  expect(await query('select count(*)::int from workers', database.platformUrl)).toEqual([[0]])
  expect(
    await query(
      `select rolname::text, has_database_privilege(oid, current_database(), 'CONNECT'), has_database_privilege(oid, current_database(), 'TEMP, CREATE')
       from pg_roles where rolname in ('bulkhead_app', 'bulkhead_platform', 'bulkhead_eraser', 'pg_monitor') order by 1`,
    ),
  ).toEqual([
    ['bulkhead_app', true, false],
    ['bulkhead_eraser', true, false],
    ['bulkhead_platform', true, false],
    ['pg_monitor', false, false],
  ])
})

it('sends a migration whole, as bulkhead_owner, with row_security off', { tags: ['roles'] }, async () => {
  const sql = `DO $$ BEGIN CREATE TABLE a (t text); INSERT INTO a VALUES ('x;y'); END $$; INSERT INTO a VALUES (current_user), (current_setting('row_security'))`
  await migrate({ ...database, migrationsDirectory: await migrationsAnd({ '20300101000000_a': sql }) })
  expect(await query('select t from a')).toEqual([['x;y'], ['bulkhead_owner'], ['off']])
})

it('keeps nothing of a migration that fails, and all before it', async () => {
  const migrationsDirectory = await migrationsAnd({
    '20300101000000_a': 'CREATE TABLE a (n int)',
    '20300101000001_b': 'CREATE TABLE b (n int); SELECT 1 / 0; CREATE TABLE c (n int)',
  })
  await expect(migrate({ ...database, migrationsDirectory })).rejects.toThrow(
    'Migration 20300101000001_b failed, and nothing of it was kept: division by zero',
  )
  expect(await query(`select to_regclass('a') is null, to_regclass('b') is null, to_regclass('c') is null`)).toEqual([
    [false, true, true],
  ])
  expect(await query(`select count(*)::int from _prisma_migrations where migration_name >= '2030'`)).toEqual([[1]])
  // The lock is free again: the repaired migration is applied.
  await writeFile(new URL('20300101000001_b/migration.sql', migrationsDirectory), 'CREATE TABLE b (n int)')
  expect(await migrate({ ...database, migrationsDirectory })).toEqual({ applied: ['20300101000001_b'] })
})

it.each([
  ['was edited after it was applied', `update _prisma_migrations set checksum = 'other' where migration_name like '%_init'`],
  [
    'which this version does not know',
    `update _prisma_migrations set migration_name = '29990101000000_later' where migration_name like '%_isolation'`,
  ],
  ['failed half-way earlier', `update _prisma_migrations set finished_at = null where migration_name like '%_isolation'`],
])('refuses a database whose migration %s', async (message, change) => {
  await migrate(database)
  await query(change)
  const refusal = await migrate(database).catch((error: Error) => error)
  expect(refusal).toMatchObject({ name: 'MigrationError', message: expect.stringContaining(message) })
  expect(String(refusal)).not.toContain('\n')
})

it('applies again what was marked as rolled back', async () => {
  const migrationsDirectory = await migrationsAnd({ '20300101000000_a': 'CREATE TABLE IF NOT EXISTS a (n int)' })
  await migrate({ ...database, migrationsDirectory })
  await query(`update _prisma_migrations set finished_at = null, rolled_back_at = now() where migration_name like '%_a'`)
  expect(await migrate({ ...database, migrationsDirectory })).toEqual({ applied: ['20300101000000_a'] })
})

it('says in one line that the database cannot be reached, without the password', async () => {
  const port = await unusedPort()
  const refusal = await migrate({ adminUrl: `postgres://admin:secret@127.0.0.1:${port}/bulkhead` }).catch((error: Error) => error)
  expect(String(refusal)).toBe(
    `MigrationError: The database at 127.0.0.1:${port} cannot be reached as admin: connect ECONNREFUSED 127.0.0.1:${port}`,
  )
  const missing = await migrate({ adminUrl: `${database.adminUrl}_missing` }).catch((error: Error) => error)
  expect(String(missing)).toMatch(
    /^MigrationError: The database at .* cannot be reached as .*: database ".*_missing" does not exist$/,
  )
})

it('refuses a server before PostgreSQL 15', async () => {
  await using server = await serverOfVersion(140_022, '14.22')
  await expect(migrate({ adminUrl: server.url })).rejects.toThrow(
    'The database is PostgreSQL 14.22. Bulkhead needs PostgreSQL 15 or later.',
  )
})

it('waits for a migration in progress', async () => {
  const client = new pg.Client({ connectionString: database.adminUrl })
  await client.connect()
  await client.query('select pg_advisory_lock(72707369)')
  const waiting = Promise.withResolvers<string>()
  const migration = migrate({ ...database, onProgress: waiting.resolve })
  expect(await waiting.promise).toBe('waiting for another migration of this database')
  expect(await query(`select to_regclass('_prisma_migrations')`)).toEqual([[null]])
  await client.end()
  expect((await migration).applied).toEqual(migrations)
})

async function unusedPort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as { port: number }
  probe.close()
  await once(probe, 'close')
  return port
}

/** Answers every query with one row: a version. That much of the protocol is enough. */
async function serverOfVersion(number: number, name: string) {
  const message = (type: string, body: Buffer) => {
    const head = Buffer.alloc(5, type)
    head.writeInt32BE(body.length + 4, 1)
    return Buffer.concat([head, body])
  }
  const column = (label: string, oid: number) => {
    const rest = Buffer.alloc(18)
    rest.writeInt32BE(oid, 6)
    return Buffer.concat([Buffer.from(`${label}\0`), rest])
  }
  const value = (text: string) => Buffer.concat([Buffer.from([0, 0, 0, text.length]), Buffer.from(text)])
  const count = Buffer.from([0, 2])
  const ready = message('Z', Buffer.from('I'))
  const answer = Buffer.concat([
    message('T', Buffer.concat([count, column('number', 23), column('name', 25)])),
    message('D', Buffer.concat([count, value(String(number)), value(name)])),
    message('C', Buffer.from('SELECT 1\0')),
    ready,
  ])
  const server = createServer((socket) => {
    socket.once('data', () => {
      socket.write(Buffer.concat([message('R', Buffer.alloc(4)), ready]))
      socket.on('data', (data) => (data[0] === 'X'.charCodeAt(0) ? socket.end() : socket.write(answer)))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  return {
    url: `postgres://admin:x@127.0.0.1:${port}/bulkhead`,
    [Symbol.asyncDispose]: async () => {
      server.close()
      await once(server, 'close')
    },
  }
}
