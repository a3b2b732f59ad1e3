import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { migrate } from '../../src/data/migrate.ts'
import { serverAccount, serverBinaries } from '../../src/data/postgres-binaries.ts'
import { ensureCluster, environment } from '../../src/data/postgres-cluster.ts'
import { readPostmaster } from '../../src/data/postgres-process.ts'
import { adminQuery, withDatabase } from './database-url.ts'
import { freePort } from './local-server.ts'

/** A Postgres of the test's own, with a migrated database, that can be stopped, frozen and started again at the same address. */
export type PostgresServer = {
  port: number
  adminUrl: string
  appUrl: string
  platformUrl: string
  /** As `pg_ctl stop -m immediate`: nothing is written out, and the next start recovers. */
  crash(): Promise<void>
  /** After `crash`. Resolves when it answers. */
  restart(): Promise<void>
  /** Freezes it with all its sessions: connections stay open and nothing is answered. */
  pause(): Promise<void>
  resume(): Promise<void>
  stop(): Promise<void>
}

/** What is committed must outlive the server, but not the machine. */
const settings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '200',
  dynamic_shared_memory_type: 'mmap',
  io_method: 'sync',
  fsync: 'off',
  full_page_writes: 'off',
}

export async function startPostgresServer(): Promise<PostgresServer> {
  const root = await mkdtemp(join(tmpdir(), 'bulkhead-postgres-'))
  // When this runs as root, the server runs as another account, which must get in.
  await chmod(root, 0o755)
  const account = await serverAccount()
  const binaries = await serverBinaries(account)
  const directory = join(root, 'cluster')
  await ensureCluster(directory, binaries, account, 'admin-in-tests')
  const port = await freePort()
  const flags = Object.entries({ ...settings, port: String(port) }).flatMap(([name, value]) => ['-c', `${name}=${value}`])

  const launch = async (): Promise<ChildProcess> => {
    const log = await open(`${root}/log`, 'a')
    const child = spawn(binaries.postgres, ['-D', directory, ...flags], {
      ...{ ...account, env: environment, stdio: ['ignore', log.fd, log.fd] },
    })
    const kill = () => child.kill('SIGQUIT')
    process.once('exit', kill)
    child.once('exit', () => process.off('exit', kill))
    await log.close()
    for (;;) {
      const postmaster = await readPostmaster(directory)
      if (postmaster?.pid === child.pid && postmaster?.ready) return child
      if (child.exitCode !== null) throw new Error(`Postgres ended: ${await readFile(`${root}/log`, 'utf8')}`)
      await delay(10)
    }
  }
  let server = await launch()
  const end = async (signal: NodeJS.Signals) => {
    if (server.exitCode !== null || server.signalCode !== null) return
    const ended = once(server, 'exit')
    server.kill(signal)
    await ended
  }
  const signalAll = async (signal: NodeJS.Signals) => {
    const children = await readFile(`/proc/${server.pid}/task/${server.pid}/children`, 'utf8')
    // First the one that would notice that the others do not answer.
    for (const pid of [server.pid, ...children.split(' ').filter(Boolean).map(Number)]) if (pid) process.kill(pid, signal)
  }
  const urlOf = (user: string, password: string) => `postgres://${user}:${password}@127.0.0.1:${port}/bulkhead`
  const urls = {
    adminUrl: urlOf('postgres', 'admin-in-tests'),
    appUrl: urlOf('bulkhead_app', 'app-in-tests'),
    platformUrl: urlOf('bulkhead_platform', 'platform-in-tests'),
  }
  const stop = async () => {
    await signalAll('SIGCONT').catch(() => undefined)
    await end('SIGQUIT')
    await rm(root, { recursive: true, force: true })
  }
  try {
    await adminQuery(withDatabase(urls.adminUrl, 'postgres'), 'CREATE DATABASE bulkhead')
    await migrate(urls)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    port,
    ...urls,
    crash: () => end('SIGQUIT'),
    restart: async () => {
      server = await launch()
    },
    pause: () => signalAll('SIGSTOP'),
    resume: () => signalAll('SIGCONT'),
    stop,
  }
}
