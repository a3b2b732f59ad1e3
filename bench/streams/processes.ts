import { type ChildProcess, fork, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { cp, mkdtemp, readdir, readFile, rename } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { nodeArguments } from '../../test/support/platform-process.ts'

/** Something that was started for the bench. */
type Started = { pid: number; close(): Promise<void> }

/** The model that every contender calls. */
export async function startUpstream(): Promise<Started & { url: string }> {
  const child = fork(new URL('./token-upstream-process.ts', import.meta.url))
  const [{ url }] = (await once(child, 'message')) as [{ url: string }]
  return { url, ...closing(child) }
}

/** An agent server out of `bench/peers`, installed on demand. */
export async function startPeer(
  name: string,
  upstreamUrl: string,
  progress: (message: string) => void,
): Promise<Started & { url: string }> {
  const directory = await install(name, progress)
  const port = await freePort()
  const child = spawn(process.execPath, ['server.mjs', upstreamUrl, String(port)], {
    cwd: directory,
    stdio: 'ignore',
    // biome-ignore lint/style/noProcessEnv: what is started needs the path and the home of whoever runs the bench
    env: { ...process.env, NODE_ENV: 'production' },
  })
  const url = `http://127.0.0.1:${port}`
  await listening(child, url)
  return { url, ...closing(child) }
}

/** Where the peer is installed: once for each version of its folder. */
async function install(name: string, progress: (message: string) => void): Promise<string> {
  const source = join(import.meta.dirname, '../peers', name)
  const hash = createHash('sha256')
  for (const file of (await readdir(source)).toSorted()) hash.update(await readFile(join(source, file)))
  const directory = join(tmpdir(), `bulkhead-bench-peer-${name}-${hash.digest('hex').slice(0, 12)}`)
  const isInstalled = await readFile(join(directory, 'package.json')).catch(() => null)
  if (isInstalled) return directory
  progress(`streams: installing ${name} into ${directory}`)
  const unfinished = await mkdtemp(join(tmpdir(), 'bulkhead-bench-peer-'))
  await cp(source, unfinished, { recursive: true })
  const npm = spawn('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefix', unfinished], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const [code] = await once(npm, 'exit')
  if (code !== 0) throw new Error(`The peer ${name} could not be installed.`)
  await rename(unfinished, directory)
  return directory
}

/** This platform, as `npm start` runs it. */
export async function startPlatform(
  role: 'all' | 'api' | 'worker',
  env: Record<string, string>,
): Promise<Started & { url: string }> {
  const port = await freePort()
  const child = spawn(process.execPath, [...nodeArguments, 'src/main.ts', 'start', '--role', role], {
    cwd: join(import.meta.dirname, '../..'),
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...platformEnv(), ...env, PORT: String(port), LOG_LEVEL: 'error' },
  })
  const url = `http://127.0.0.1:${port}`
  await listening(child, `${url}/health/ready`)
  return { url, ...closing(child) }
}

/** What one of the platform's commands prints. */
export async function runPlatform(command: string, env: Record<string, string>): Promise<string> {
  const child = spawn(process.execPath, ['src/main.ts', command], {
    cwd: join(import.meta.dirname, '../..'),
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...platformEnv(), ...env },
  })
  const exited = once(child, 'exit')
  const output = await text(child.stdout)
  const [code] = await exited
  if (code !== 0) throw new Error(`bulkhead ${command} ended with ${code}.`)
  return output
}

/** What is not the platform's in this process' environment. */
function platformEnv(): Record<string, string | undefined> {
  const own = /^(BULKHEAD|DATABASE|REDIS|OPENAI|NODE_ENV|PORT|LOG_LEVEL)/
  // biome-ignore lint/style/noProcessEnv: what is started needs the path and the home of whoever runs the bench
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name)))
}

/** A Redis of the bench's own, nothing persisted; null when there is no `redis-server` on the path. */
export async function startRedis(): Promise<(Started & { url: string }) | null> {
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  const child = spawn('redis-server', args, { stdio: 'ignore' })
  const isThere = await Promise.race([once(child, 'spawn').then(() => true), once(child, 'error').then(() => false)]).catch(
    () => false,
  )
  if (!isThere) return null
  await delay(300)
  return { url: `redis://127.0.0.1:${port}`, ...closing(child) }
}

function closing(child: ChildProcess): Started {
  const exited = once(child, 'exit')
  const kill = () => child.kill('SIGKILL')
  process.once('exit', kill)
  return {
    pid: child.pid ?? 0,
    async close() {
      process.off('exit', kill)
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
      const late = setTimeout(kill, 8_000)
      await exited
      clearTimeout(late)
    },
  }
}

async function listening(child: ChildProcess, url: string): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`What was to answer at ${url} ended with ${child.exitCode}.`)
    const isThere = await fetch(url).then(
      (response) => !url.endsWith('/ready') || response.ok,
      () => false,
    )
    if (isThere) return
    await delay(50)
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  return typeof address === 'object' && address ? address.port : 0
}

/** User and system time of these processes and their descendants so far, in microseconds. Linux only, as /proc is. */
export async function cpuMicros(pids: readonly number[]): Promise<number> {
  const times = await Promise.all(
    pids.map(async (pid) => {
      // The command, in parentheses, may hold spaces.
      const fields = (await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')).split(') ')[1]?.split(' ') ?? []
      const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')).split(' ').filter(Boolean)
      // In ticks of 10 ms: fields 14 and 15 of proc(5), and 16 and 17 of children that have ended.
      const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
      return ticks * 10_000 + (await cpuMicros(children.map(Number)))
    }),
  )
  return times.reduce((sum, time) => sum + time, 0)
}
