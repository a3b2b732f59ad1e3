import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { EmbeddedPostgresError } from './embedded-error.ts'
import type { Account, Binaries } from './postgres-binaries.ts'
import { environment } from './postgres-cluster.ts'

/** What fits a laptop and a small container: no /dev/shm, no parallel workers, no replication. */
const defaults: Record<string, string> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  shared_buffers: '64MB',
  dynamic_shared_memory_type: 'mmap',
  max_parallel_workers_per_gather: '0',
  io_method: 'sync',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_wal_size: '256MB',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_checkpoints: 'off',
  // Statements may hold what tenants wrote.
  log_min_error_statement: 'panic',
}

export type ServerProcess = {
  port: number
  /** Ends all sessions, writes everything out, and resolves when the process is gone. Calling it again does nothing. */
  stop(): Promise<void>
}

/**
 * Starts the server of the cluster in `directory` on a free port of 127.0.0.1 and waits until it answers. It logs to
 * `<directory>.log`, and stops when this process exits. Throws EmbeddedPostgresError with what the server said.
 */
export async function startServer(
  directory: string,
  binaries: Binaries,
  account: Account,
  settings: Record<string, string>,
): Promise<ServerProcess> {
  for (let attempt = 1; ; attempt++) {
    const outcome = await tryStart(directory, binaries, account, settings)
    if ('port' in outcome) return outcome
    // Somebody else took the port in between.
    if (attempt < 3 && outcome.failure.includes('could not create any TCP/IP sockets')) continue
    throw new EmbeddedPostgresError(`The embedded database does not start: ${outcome.failure} (${directory}.log)`)
  }
}

async function tryStart(
  directory: string,
  { postgres }: Binaries,
  account: Account,
  settings: Record<string, string>,
): Promise<ServerProcess | { failure: string }> {
  const port = await freePort()
  const flags = Object.entries({ ...defaults, ...settings, port: String(port) }).flatMap(([name, value]) => [
    '-c',
    `${name}=${value}`,
  ])
  const log = await open(`${directory}.log`, 'w', 0o600)
  // In a session of its own, because a terminal sends Ctrl-C to the whole foreground group, and the platform drains first.
  const child = spawn(postgres, ['-D', directory, ...flags], {
    ...account,
    env: environment,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  })
  const stopWithParent = () => child.kill('SIGINT')
  process.once('exit', stopWithParent)
  const ended = once(child, 'exit').then(
    () => 'it ended',
    (error: Error) => error.message,
  )
  void ended.then(() => process.off('exit', stopWithParent))
  await log.close()
  const failure = await Promise.race([ended, untilReady(directory, child)])
  if (failure !== null) return { failure: (await lastFatal(`${directory}.log`)) ?? failure }
  child.unref()
  return { port, stop: () => stopChild(child, ended) }
}

/** Null once the server answers; why not, when it ended instead. Postgres writes its state into its pid file. */
async function untilReady(directory: string, child: ChildProcess): Promise<string | null> {
  while (child.exitCode === null && child.signalCode === null) {
    const postmaster = await readPostmaster(directory)
    if (postmaster?.pid === child.pid && postmaster?.ready) return null
    await delay(20)
  }
  return 'it ended'
}

async function lastFatal(path: string): Promise<string | undefined> {
  const lines = (await readFile(path, 'utf8')).split('\n')
  return lines.findLast((line) => line.includes('FATAL:'))?.replace(/^.*FATAL:\s*/, '')
}

/** SIGINT is Postgres' fast shutdown; SIGQUIT, its immediate one, for a server that does not obey within 10 s. */
async function stopChild(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
  child.ref()
  child.kill('SIGINT')
  const impatience = setTimeout(() => child.kill('SIGQUIT'), 10_000)
  await ended
  clearTimeout(impatience)
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  if (address === null || typeof address === 'string') throw new TypeError('A TCP server has no port.')
  return address.port
}

export type Postmaster = { pid: number; port: number; ready: boolean }

/** What the server of this cluster wrote into its `postmaster.pid`; null when there is none. It may be stale: see `isServerOf`. */
export async function readPostmaster(directory: string): Promise<Postmaster | null> {
  const text = await readFile(join(directory, 'postmaster.pid'), 'utf8').catch(() => '')
  const [pid, , , port, , , , status] = text.split('\n')
  return Number(pid) > 0 ? { pid: Number(pid), port: Number(port), ready: status?.trim() === 'ready' } : null
}

/** Whether `pid` is still the Postgres server of this cluster, and not a process that was given its number since. */
export async function isServerOf(directory: string, pid: number): Promise<boolean> {
  const command = await commandLine(pid)
  return /^(\S*\/)?postgres /.test(command) && command.includes(` -D ${directory} `)
}

/** The words of a process's command, a space between them; empty when there is no such process. */
async function commandLine(pid: number): Promise<string> {
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    return text.replaceAll('\0', ' ')
  }
  const { stdout } = await promisify(execFile)('ps', ['-p', String(pid), '-o', 'args=']).catch(() => ({ stdout: '' }))
  return `${stdout.trim()} `
}
