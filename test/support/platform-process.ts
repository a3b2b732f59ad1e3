import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import manifest from '../../package.json' with { type: 'json' }

/** What `npm start` gives Node besides the program. */
export const nodeArguments = manifest.scripts.start.split(' ').filter((argument) => argument.startsWith('--'))

const root = join(import.meta.dirname, '../..')

/** The real program in a process of its own, as `npm start` runs it. */
export type PlatformProcess = {
  /** All that it printed to stdout so far. */
  output(): string
  errors(): string
  /** The URL of the start-up text. Throws when the process ends before it says one. */
  url: Promise<string>
  /** Sends the signal, unless it has ended, and waits for nothing. */
  signal(signal: NodeJS.Signals): void
  /** Sends the signal and resolves to the exit code. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
  exited: Promise<number | null>
  pid: number
}

/** Environment variables of the test run that are not the platform's are passed on; those that are, are not. */
const inherited = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(BULKHEAD|DATABASE|REDIS|OPENAI|NODE_ENV|PORT|VITEST|LOG_LEVEL)/.test(name)),
)

/** A port of its own. Many are started: what was compiled for one is not for the next. */
const own = { PORT: '0', NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/compiled') }

export function startPlatformProcess(env: Record<string, string>, args = ['start']): PlatformProcess {
  const child = spawn(process.execPath, [...nodeArguments, 'src/main.ts', ...args], {
    cwd: root,
    env: { ...inherited, ...own, ...env },
  })
  const stdout = collect(child, 'stdout')
  const stderr = collect(child, 'stderr')
  const exited = once(child, 'exit').then(([code]) => code as number | null)
  const send = (signal: NodeJS.Signals) => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal)
  }
  return {
    output: stdout,
    errors: stderr,
    exited,
    pid: child.pid ?? 0,
    get url() {
      return waitForUrl(child, stdout, stderr)
    },
    signal: send,
    async stop(signal = 'SIGINT') {
      send(signal)
      return exited
    },
  }
}

function collect(child: ChildProcess, stream: 'stdout' | 'stderr'): () => string {
  let text = ''
  child[stream]?.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  return () => text
}

async function waitForUrl(child: ChildProcess, stdout: () => string, stderr: () => string): Promise<string> {
  for (;;) {
    const url = /https?:\/\/[\w.:[\]]+(?=\/(?:graphql|health))/.exec(stdout())?.[0]
    if (url !== undefined) return url
    if (child.exitCode !== null) throw new Error(`The platform ended with ${child.exitCode}: ${stderr()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
