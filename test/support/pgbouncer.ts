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
  stop(): Promise<void>
}

/** Starts one in transaction mode that shares a single connection to `databaseUrl` among all its clients. */
export async function startPgBouncer(databaseUrl: string): Promise<PgBouncer> {
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-pgbouncer-'))
  const port = await freePort()
  const url = new URL(databaseUrl)
  const server = await launch(directory, configuration(url, port))
  url.port = String(port)
  url.hostname = '127.0.0.1'
  url.password = ''
  const stop = async () => {
    await end(server)
    await rm(directory, { recursive: true })
  }
  return { url: url.href, stop }
}

function configuration(url: URL, port: number): string {
  const name = url.pathname.slice(1)
  const target = { host: url.hostname, port: url.port || '5432', user: url.username, password: url.password }
  const parameters = Object.entries(target).map(([key, value]) => `${key}='${decodeURIComponent(value).replaceAll("'", "''")}'`)
  const settings = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    auth_type: 'any',
    pool_mode: 'transaction',
    default_pool_size: 1,
    ...(pgBouncerKeepsNames() && { max_prepared_statements: 100 }),
  }
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`)
  return ['[databases]', `${name} = ${parameters.join(' ')}`, '[pgbouncer]', ...lines, ''].join('\n')
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
