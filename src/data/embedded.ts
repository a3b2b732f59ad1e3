import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { EmbeddedPostgresError } from './embedded-error.ts'
import { type Account, mayReach, serverAccount, serverBinaries, systemDirectory } from './postgres-binaries.ts'
import { ensureCluster } from './postgres-cluster.ts'
import { isServerOf, readPostmaster, type ServerProcess, startServer } from './postgres-process.ts'

export type EmbeddedOptions = {
  /** Where the platform keeps its files. The database is in `postgres` below it, its passwords in `postgres.json`. */
  dataDir: string
  onProgress?: (message: string) => void
  /** Server settings that override the usual ones. Default none. */
  settings?: Record<string, string>
}

export type EmbeddedPostgres = {
  /** As the superuser. For migrations only. */
  adminUrl: string
  /** As `bulkhead_app`, which exists once `migrate` was given this URL. */
  appUrl: string
  /** As `bulkhead_platform`, likewise. */
  platformUrl: string
  /** Where the database is: outside `dataDir` when this runs as root and Postgres' account cannot reach into it. */
  clusterDirectory: string
  /** Stops the server; it resolves when no process and no lock is left. Calling it again does nothing. */
  stop(): Promise<void>
}

const database = 'bulkhead'

/** Held, in the database `postgres`, by the process that the server belongs to. It goes when the process goes, however it ends. */
const ownershipKey = 1_651_862_632

/**
 * Starts the embedded PostgreSQL of a data directory, which it creates the first time. It listens on a free port of
 * 127.0.0.1, asks for passwords, and survives Ctrl-C until `stop` is called or this process exits. A server that was left
 * behind when its process was killed is stopped first. Throws EmbeddedPostgresError when it cannot start, or when another
 * process uses the same data directory.
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const onProgress = options.onProgress ?? (() => undefined)
  const dataDir = resolve(options.dataDir)
  const account = await serverAccount()
  const binaries = await serverBinaries(account)
  const record = await ensureRecord(dataDir, account)
  const directory = resolve(dataDir, record.directory)
  await mkdir(dirname(directory), { recursive: true })
  await ensureCluster(directory, binaries, account, record.adminPassword)
  await stopLeftover(directory, record.adminPassword, onProgress)
  onProgress('starting the database')
  const server = await startServer(directory, binaries, account, options.settings ?? {})
  const ownership = await own(server, record.adminPassword, dataDir)
  const url = (user: string, password: string) => `postgres://${user}:${password}@127.0.0.1:${server.port}/${database}`
  const stop = async () => {
    await Promise.all([server.stop(), ownership.end()])
  }
  let stopped: Promise<void> | undefined
  return {
    adminUrl: url('postgres', record.adminPassword),
    appUrl: url('bulkhead_app', record.appPassword),
    platformUrl: url('bulkhead_platform', record.platformPassword),
    clusterDirectory: directory,
    stop: () => (stopped ??= stop()),
  }
}

/** What a data directory remembers of its database. `directory` is relative to it, or absolute. */
type DatabaseRecord = { directory: string; adminPassword: string; appPassword: string; platformPassword: string }

/** Reads `postgres.json`, or writes it: whole, and once, also when two start at the same time. */
async function ensureRecord(dataDir: string, account: Account): Promise<DatabaseRecord> {
  await mkdir(dataDir, { recursive: true })
  const path = join(dataDir, 'postgres.json')
  const existing = await readFile(path, 'utf8').catch(() => null)
  if (existing !== null) return JSON.parse(existing)
  const directory = (await mayReach(account, dataDir)) ? 'postgres' : join(systemDirectory, randomBytes(8).toString('hex'))
  const [adminPassword, appPassword, platformPassword] = [secret(), secret(), secret()]
  const draft = `${path}.${process.pid}`
  await writeFile(draft, `${JSON.stringify({ directory, adminPassword, appPassword, platformPassword }, null, 2)}\n`, {
    mode: 0o600,
  })
  await link(draft, path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
  await rm(draft)
  return JSON.parse(await readFile(path, 'utf8'))
}

function secret(): string {
  return randomBytes(24).toString('base64url')
}

function connectAsAdmin(port: number, password: string): Promise<pg.Client> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: 'postgres',
    password,
    database: 'postgres',
    connectionTimeoutMillis: 5_000,
  })
  // The server may go at any time; who uses it notices for itself.
  client.on('error', () => undefined)
  return client.connect().then(() => client)
}

async function takeOwnership(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ owned: boolean }>('select pg_try_advisory_lock($1) as owned', [ownershipKey])
  return rows[0]?.owned === true
}

/** Creates the database if it is missing, and keeps one connection that says whose the server is. */
async function own(server: ServerProcess, password: string, dataDir: string): Promise<pg.Client> {
  const client = await connectAsAdmin(server.port, password).catch(async (error: Error) => {
    await server.stop()
    throw new EmbeddedPostgresError(
      `The embedded database refuses the password in ${join(dataDir, 'postgres.json')}: ${error.message}`,
    )
  })
  await takeOwnership(client)
  const { rowCount } = await client.query('select from pg_database where datname = $1', [database])
  if (rowCount === 0)
    await client.query(`CREATE DATABASE ${database}`)
    // pg has this method and its types do not.
  ;(client as pg.Client & { unref(): void }).unref()
  return client
}

/** Stops the server of a process that was killed. Bounded: 30 s for a server that starts, stops or recovers. */
async function stopLeftover(directory: string, password: string, onProgress: (message: string) => void): Promise<void> {
  const deadline = Date.now() + 30_000
  let stopping = false
  while (Date.now() < deadline) {
    const postmaster = await readPostmaster(directory)
    if (!postmaster || !(await isServerOf(directory, postmaster.pid))) return
    if (!stopping && postmaster.ready && (await isOrphan(directory, postmaster.port, password))) {
      stopping = true
      onProgress('stopping the database that a killed process left behind')
      process.kill(postmaster.pid, 'SIGINT')
    }
    await delay(stopping ? 20 : 100)
  }
  throw new EmbeddedPostgresError(`The database in ${directory} is running and does not answer. Stop it and start again.`)
}

/** False when it cannot be told now, since the server is going down. Throws when the server belongs to a living process. */
async function isOrphan(directory: string, port: number, password: string): Promise<boolean> {
  const client = await connectAsAdmin(port, password).catch(() => null)
  if (!client) return false
  try {
    if (await takeOwnership(client)) return true
  } finally {
    await client.end()
  }
  throw new EmbeddedPostgresError(`The database in ${directory} is in use by another Bulkhead process. Stop that one first.`)
}
