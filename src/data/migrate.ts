import { createHash, randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import pg from 'pg'
import { MigrationError } from './migration-error.ts'
import { ensureRoles, type LoginUrls } from './roles.ts'

export type MigrateOptions = LoginUrls & {
  /** A direct connection (no transaction pooler) as a superuser, or as an administrator with CREATEROLE that owns the database. */
  adminUrl: string
  /** Told, in a few words, what is being done. */
  onProgress?: (message: string) => void
  /** Where the migrations are. Default: `prisma/migrations` of this package. */
  migrationsDirectory?: URL
}

/** The lock that Prisma's own `migrate deploy` takes, so that the two exclude each other. */
const lockKey = 72_707_369

/** Prisma's table, column by column. */
const historyTable = `
  CREATE TABLE IF NOT EXISTS _prisma_migrations (
    id                  VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum            VARCHAR(64) NOT NULL,
    finished_at         TIMESTAMPTZ,
    migration_name      VARCHAR(255) NOT NULL,
    logs                TEXT,
    rolled_back_at      TIMESTAMPTZ,
    started_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
  )`

/**
 * Brings the database to this version: roles, then each migration that it does not have, in order, each in a transaction
 * of its own as `bulkhead_owner`, recorded as `prisma migrate deploy` records it. Resolves to the names it applied.
 *
 * Safe to repeat, and safe when several start at once: they wait for each other. A migration that fails leaves nothing.
 * Throws MigrationError, having changed no table, when the server is older than Postgres 15, when the database is newer
 * than this version, when an applied migration was edited since, and when another tool left one half-done.
 *
 * A migration is sent whole, as one simple query, and so cannot hold statements that refuse to run in a transaction.
 */
export async function migrate(options: MigrateOptions): Promise<{ applied: string[] }> {
  const onProgress = options.onProgress ?? (() => undefined)
  const migrations = await readMigrations(options.migrationsDirectory ?? ownMigrations)
  const admin = await connect(options.adminUrl)
  try {
    await requireVersion(admin)
    await lock(admin, onProgress)
    await ensureRoles(admin, options)
    await asOwner(admin, () => admin.query(historyTable))
    const pending = await findPending(admin, migrations)
    for (const migration of pending) {
      onProgress(`applying migration ${migration.name}`)
      await apply(admin, migration)
    }
    return { applied: pending.map((migration) => migration.name) }
  } finally {
    // Closing the session gives the lock back.
    await admin.end()
  }
}

/** The names of the migrations that are still to be applied to the database. Throws MigrationError as `migrate` does. Changes nothing. */
export async function pendingMigrations(adminUrl: string): Promise<string[]> {
  const admin = await connect(adminUrl)
  try {
    const { rows } = await admin.query<{ there: boolean }>("select to_regclass('public._prisma_migrations') is not null as there")
    const migrations = await readMigrations(ownMigrations)
    return (rows[0]?.there ? await findPending(admin, migrations) : migrations).map(({ name }) => name)
  } finally {
    await admin.end()
  }
}

const ownMigrations = new URL('../../prisma/migrations/', import.meta.url)

type Migration = { name: string; sql: string; checksum: string }

async function readMigrations(directory: URL): Promise<Migration[]> {
  const entries = await readdir(directory, { withFileTypes: true })
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
  return Promise.all(
    names.sort().map(async (name) => {
      const sql = await readFile(new URL(`${name}/migration.sql`, directory), 'utf8')
      return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') }
    }),
  )
}

async function connect(adminUrl: string): Promise<pg.Client> {
  const admin = new pg.Client({ connectionString: adminUrl, connectionTimeoutMillis: 10_000 })
  // A connection that breaks also rejects the query in progress, which is how it gets reported.
  admin.on('error', () => undefined)
  try {
    await admin.connect()
    return admin
  } catch (error) {
    const reason = error instanceof Error ? error.message || error.name : String(error)
    throw new MigrationError(`The database at ${admin.host}:${admin.port} cannot be reached as ${admin.user}: ${reason}`, {
      cause: error,
    })
  }
}

async function requireVersion(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ number: number; name: string }>(
    `select current_setting('server_version_num')::int as number, current_setting('server_version') as name`,
  )
  const [version] = rows
  if (!version || version.number < 150_000)
    throw new MigrationError(`The database is PostgreSQL ${version?.name}. Bulkhead needs PostgreSQL 15 or later.`)
}

async function lock(admin: pg.Client, onProgress: (message: string) => void): Promise<void> {
  const { rows } = await admin.query<{ locked: boolean }>('select pg_try_advisory_lock($1) as locked', [lockKey])
  if (rows[0]?.locked) return
  onProgress('waiting for another migration of this database')
  await admin.query('select pg_advisory_lock($1)', [lockKey])
}

/** With row_security off, a statement that a policy would silently narrow is an error instead. */
async function asOwner(admin: pg.Client, work: () => Promise<unknown>): Promise<void> {
  await admin.query('BEGIN')
  try {
    await admin.query('SET LOCAL ROLE bulkhead_owner; SET LOCAL row_security = off; SET LOCAL search_path = public')
    await work()
    await admin.query('COMMIT')
  } catch (error) {
    await admin.query('ROLLBACK')
    throw error
  }
}

type Recorded = { migration_name: string; checksum: string; finished: boolean }

async function findPending(admin: pg.Client, migrations: Migration[]): Promise<Migration[]> {
  const { rows } = await admin.query<Recorded>(
    `select migration_name, checksum, finished_at is not null as finished
     from public._prisma_migrations where rolled_back_at is null order by migration_name`,
  )
  const byName = new Map(migrations.map((migration) => [migration.name, migration]))
  for (const recorded of rows) {
    const name = recorded.migration_name
    const migration = byName.get(name)
    if (!recorded.finished)
      throw new MigrationError(
        `Migration ${name} failed half-way earlier. Repair it, then mark it with \`prisma migrate resolve\`.`,
      )
    if (!migration)
      throw new MigrationError(`The database has migration ${name}, which this version does not know. Run a newer version.`)
    if (migration.checksum !== recorded.checksum)
      throw new MigrationError(`Migration ${name} was edited after it was applied. Restore the file, and write a new migration.`)
  }
  const applied = new Set(rows.map((row) => row.migration_name))
  return migrations.filter((migration) => !applied.has(migration.name))
}

async function apply(admin: pg.Client, migration: Migration): Promise<void> {
  try {
    await asOwner(admin, async () => {
      await admin.query(migration.sql)
      await admin.query(
        `insert into _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count)
         values ($1, $2, $3, now(), clock_timestamp(), 1)`,
        [randomUUID(), migration.checksum, migration.name],
      )
    })
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new MigrationError(`Migration ${migration.name} failed, and nothing of it was kept: ${reason}`, { cause: error })
  }
}
