import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbeddedPostgres } from '../../src/data/embedded.ts'
import { migrate } from '../../src/data/migrate.ts'
import { type BenchTenant, seedTenants, sizes } from './seed.ts'

/** A Postgres of its own, migrated and seeded, with the settings that `npm start` gives it: fsync is on. */
export type BenchDatabase = {
  host: string
  port: number
  /** Row-level security binds who connects here. */
  appUrl: string
  /** It does not bind who connects here. */
  adminUrl: string
  /** The platform's own role. */
  platformUrl: string
  /** The process that all of the server's processes are children of. */
  pid: number
  tenants: BenchTenant[]
  /** Its version, the settings that matter here and its contents, in two lines. */
  describe(): Promise<string>
  /** Stops the server and removes its files. */
  stop(): Promise<void>
}

export async function startDatabase(): Promise<BenchDatabase> {
  const dataDir = await mkdtemp(join(tmpdir(), 'bulkhead-bench-'))
  // When this runs as root, Postgres runs as another user, who has to reach its files.
  await chmod(dataDir, 0o755)
  const { adminUrl, appUrl, platformUrl, ...embedded } = await startEmbeddedPostgres({ dataDir })
  await migrate({ adminUrl, appUrl, platformUrl })
  const tenants = await seedTenants(adminUrl)
  const { hostname, port } = new URL(adminUrl)
  return {
    host: hostname,
    port: Number(port),
    appUrl,
    adminUrl,
    platformUrl,
    pid: Number((await readFile(join(embedded.clusterDirectory, 'postmaster.pid'), 'utf8')).split('\n', 1)[0]),
    tenants,
    describe: () => describe(adminUrl),
    async stop() {
      await embedded.stop()
      await Promise.all([dataDir, embedded.clusterDirectory].map((path) => rm(path, { recursive: true, force: true })))
    },
  }
}

async function describe(adminUrl: string): Promise<string> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  const names = ['fsync', 'synchronous_commit', 'wal_level', 'shared_buffers', 'jit']
  const { rows } = await admin.query<{ version: string; settings: string }>(
    `select current_setting('server_version') as version, string_agg(name || ' ' || current_setting(name), ', ') as settings
     from unnest($1::text[]) name`,
    [names],
  )
  await admin.end()
  return `PostgreSQL ${rows[0]?.version} (${rows[0]?.settings}), on the same machine, over TCP;\n${sizes.tenants} tenants × ${sizes.conversationsPerTenant} conversations × ${sizes.messagesPerConversation} messages, and what the benches add`
}
