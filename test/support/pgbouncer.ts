import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { serverAccount } from '../../src/data/postgres-binaries.ts'
import { findProgram, freePort } from './local-server.ts'

const program = findProgram('pgbouncer')

/** Whether tests that need PgBouncer run: it is installed. In CI they always run, and fail without one. */
export const pgBouncerAvailable = process.env['CI'] === 'true' || program !== null

/** The name of a suite that needs PgBouncer; says why when it is skipped. */
export function pgBouncerSuite(name: string): string {
  return pgBouncerAvailable
    ? `${name} ${installedVersion()?.join('.') ?? ''}`.trim()
    : `${name} (skipped: no pgbouncer installed)`
}

/** Whether it follows statements that clients prepare by name in transaction mode: since 1.21, `max_prepared_statements`. */
export function pgBouncerKeepsNames(): boolean {
  const [major = 0, minor = 0] = installedVersion() ?? []
  return major > 1 || minor >= 21
}

/** A real PgBouncer of the test's own, on loopback. */
export type PgBouncer = {
  /** What is at `databaseUrl`, by way of PgBouncer. Its login needs no password. */
  url: string
  /** The same of each of the `others`. */
  others: string[]
  pid: number
  stop(): Promise<void>
}

export type PgBouncerOptions = {
  /** Connections to Postgres that all clients of a URL share. Default 1. */
  poolSize?: number
  /** More URLs of that server, such as those of its other roles. Default none. */
  others?: string[]
}

/** Starts one in transaction mode. */
export async function startPgBouncer(
  databaseUrl: string,
  { poolSize = 1, others = [] }: PgBouncerOptions = {},
): Promise<PgBouncer> {
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-pgbouncer-'))
  const port = await freePort()
  const targets = [databaseUrl, ...others].map((text, index) => {
    const url = new URL(text)
    // By its name PgBouncer tells which login is meant: it has its password, and asks for none.
    return { url, name: index === 0 ? url.pathname.slice(1) : `${url.pathname.slice(1)}_${index}` }
  })
  const server = await launch(directory, configuration(targets, port, poolSize))
  const [first = '', ...rest] = targets.map(({ url, name }) => {
    const pooled = new URL(`/${name}`, url)
    pooled.port = String(port)
    pooled.hostname = '127.0.0.1'
    pooled.password = ''
    return pooled.href
  })
  const stop = async () => {
    await end(server)
    await rm(directory, { recursive: true })
  }
  return { url: first, others: rest, pid: server.pid ?? 0, stop }
}

type Target = { url: URL; name: string }

function targetLine({ url, name }: Target): string {
  const where = { host: url.hostname, port: url.port || '5432', dbname: url.pathname.slice(1) }
  const target = { ...where, user: url.username, password: url.password }
  const parameters = Object.entries(target).map(([key, value]) => `${key}='${decodeURIComponent(value).replaceAll("'", "''")}'`)
  return `${name} = ${parameters.join(' ')}`
}

function configuration(targets: Target[], port: number, poolSize: number): string {
  const settings = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    auth_type: 'any',
    pool_mode: 'transaction',
    default_pool_size: poolSize,
    max_client_conn: 1_000,
    ...(pgBouncerKeepsNames() && { max_prepared_statements: 100 }),
  }
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`)
  return ['[databases]', ...targets.map(targetLine), '[pgbouncer]', ...lines, ''].join('\n')
}

async function launch(directory: string, text: string): Promise<ChildProcess> {
  const file = join(directory, 'pgbouncer.ini')
  await writeFile(file, text, { mode: 0o600 })
  // Like Postgres, it refuses to run as root.
  const account = await serverAccount()
  if (account) await Promise.all([directory, file].map((path) => chown(path, account.uid, account.gid)))
  await chmod(directory, 0o700)
  const server = spawn(program ?? 'pgbouncer', [file], { ...account, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'] })
  await once(server, 'spawn')
  const kill = () => server.kill('SIGKILL')
  process.once('exit', kill)
  server.once('close', () => process.off('exit', kill))

  const log: string[] = []
  for await (const line of createInterface({ input: server.stderr })) {
    log.push(line)
    if (line.includes('process up')) {
      // Keeps reading, so that the log never fills the pipe.
      server.stderr.resume()
      return server
    }
  }
  throw new Error(`pgbouncer ended before it was ready:\n${log.join('\n')}`)
}

async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  server.kill('SIGKILL')
  await once(server, 'close')
}

function installedVersion(): number[] | null {
  if (!program) return null
  const [, version = ''] = execFileSync(program, ['--version'], { encoding: 'utf8' }).match(/PgBouncer ([\d.]+)/) ?? []
  return version.split('.').map(Number)
}
