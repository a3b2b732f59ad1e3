import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { RedisTarget } from '../../src/redis/target.ts'
import { findProgram, freePort } from './local-server.ts'

/** Whether tests that need Redis run: a `redis-server` is on the PATH. In CI they always run, and fail without one. */
export const redisAvailable = process.env['CI'] === 'true' || findProgram('redis-server') !== null

/** The name of a suite that needs Redis; says why when it is skipped. */
export function redisSuite(name: string): string {
  return redisAvailable ? name : `${name} (skipped: no redis-server on the PATH)`
}

/** A real Redis of the test's own: nothing persisted, on loopback. */
export type RedisServer = {
  port: number
  url: string
  target: RedisTarget
  /** Of the process that runs, or ran last. */
  pid(): number
  /** Freezes the process: connections stay open and nothing is answered. */
  pause(): void
  resume(): void
  /** Ends it with all its data. Calling it again does nothing. */
  stop(): Promise<void>
  /** Starts it again on the same port after `stop`, empty. */
  restart(): Promise<void>
}

/**
 * Starts a `redis-server`, on a free port unless `settings` name one, as a sentinel when `sentinelFile` is its file; resolves
 * when it accepts connections.
 */
export async function startRedisServer(
  settings: Record<string, string | number> = {},
  sentinelFile?: string,
): Promise<RedisServer> {
  const port = Number(settings['port'] ?? (await freePort()))
  const url = `redis://127.0.0.1:${port}`
  const mode = sentinelFile === undefined ? [] : [sentinelFile, '--sentinel']
  let server = await launch({ ...settings, port }, mode)
  return {
    port,
    url,
    target: { mode: 'single', url },
    pid: () => server.pid ?? 0,
    pause: () => server.kill('SIGSTOP'),
    resume: () => server.kill('SIGCONT'),
    stop: () => end(server),
    restart: async () => {
      server = await launch({ ...settings, port }, mode)
    },
  }
}

async function launch(settings: Record<string, string | number>, mode: string[]): Promise<ChildProcess> {
  const options = { bind: '127.0.0.1', save: '', appendonly: 'no', daemonize: 'no', logfile: '', ...settings }
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const server = spawn('redis-server', [...mode, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(server, 'spawn')
  const kill = () => server.kill('SIGKILL')
  process.once('exit', kill)
  server.once('close', () => process.off('exit', kill))

  const log: string[] = []
  for await (const line of createInterface({ input: server.stdout })) {
    log.push(line)
    if (/Ready to accept connections|Sentinel ID is/.test(line)) {
      // Keeps reading, so that the log never fills the pipe.
      server.stdout.resume()
      return server
    }
  }
  throw new Error(`redis-server ended before it was ready:\n${log.join('\n')}`)
}

async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  // A frozen process ends by nothing less.
  server.kill('SIGKILL')
  await once(server, 'close')
}
