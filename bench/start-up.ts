import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Bench } from './bench.ts'
import { median } from './support/rounds.ts'

const starts = 3
const idle = 10_000

type Goal = { name: string; most: number; unit: string; measured: number[] }

/** From the command to the first answer, and what the server then holds while nobody asks. */
export const startUp: Bench = {
  summary: 'npm start to the first answered query, and the memory of an idle server',
  async run({ progress }) {
    const empty: Goal = { name: 'empty data directory', most: 10, unit: 's', measured: [] }
    const initialised: Goal = { name: 'initialised data directory', most: 5, unit: 's', measured: [] }
    const memory: Goal = { name: 'resident memory, idle', most: 200, unit: 'MB', measured: [] }
    for (let index = 1; index <= starts; index++) {
      const dataDir = await mkdtemp(join(tmpdir(), 'bulkhead-bench-'))
      // Root's Postgres account has to reach into it, or the database lands outside.
      await chmod(dataDir, 0o755)
      try {
        progress(`start-up ${index}/${starts}`)
        empty.measured.push((await startOnce(dataDir)).seconds)
        const second = await startOnce(dataDir, idle)
        initialised.measured.push(second.seconds)
        memory.measured.push(second.megabytes)
      } finally {
        await rm(dataDir, { recursive: true, force: true })
      }
    }
    const goals = [empty, initialised, memory]
    const figure = ({ measured, unit }: Goal) => `${median(measured).toFixed(unit === 's' ? 1 : 0)} ${unit}`
    return [
      {
        title: 'Start-up',
        setup: [
          `\`npm start\` until an authenticated query is answered over HTTP; medians of ${starts}.`,
          `Memory is VmRSS of the server's process ${idle / 1_000} s later, Postgres not included.`,
        ],
        table: {
          columns: ['', 'median', 'all'],
          rows: goals.map((goal) => [goal.name, figure(goal), goal.measured.map((one) => one.toFixed(1)).join(', ')]),
        },
        verdicts: goals.map((goal) => ({
          row: 13,
          goal: `${goal.name} ≤ ${goal.most} ${goal.unit}`,
          measured: figure(goal),
          met: median(goal.measured) <= goal.most,
        })),
      },
    ]
  },
}

async function startOnce(dataDir: string, wait = 0): Promise<{ seconds: number; megabytes: number }> {
  const began = performance.now()
  // A group of its own, to be interrupted as a terminal does it.
  const npm = spawn('npm', ['start'], {
    detached: true,
    stdio: ['ignore', 'pipe', 'ignore'],
    // biome-ignore lint/style/noProcessEnv: what is started needs the path and the home of whoever runs the bench
    env: { ...process.env, PORT: '0', BULKHEAD_DATA_DIR: dataDir },
  })
  const exited = once(npm, 'exit')
  try {
    await answered(npm, dataDir)
    const seconds = (performance.now() - began) / 1_000
    await delay(wait)
    return { seconds, megabytes: await residentMegabytes(npm.pid ?? 0) }
  } finally {
    if (npm.pid !== undefined && npm.exitCode === null) process.kill(-npm.pid, 'SIGINT')
    await exited
  }
}

/** Resolves when the server has answered a query. Throws when it ends before. */
async function answered(npm: ChildProcess, dataDir: string): Promise<void> {
  let output = ''
  npm.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    output += chunk
  })
  for (;;) {
    if (npm.exitCode !== null) throw new Error('The platform ended before it answered.')
    const url = /http:\/\/\S+\/graphql/.exec(output)?.[0]
    if (url !== undefined && (await asks(url, dataDir))) return
    await delay(10)
  }
}

async function asks(url: string, dataDir: string): Promise<boolean> {
  const { tenants } = JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8'))
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${tenants[0].memberKey}` }
  const response = await fetch(url, { method: 'POST', headers, body: '{"query":"{ viewer { actorName } }"}' })
  return response.ok
}

/** Of the server among `pid` and its descendants: npm runs a shell that runs it. Linux only, as /proc is. */
async function residentMegabytes(pid: number): Promise<number> {
  const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
  if (!command.includes('src/main.ts')) {
    const [child] = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ')
    return residentMegabytes(Number(child))
  }
  const kilobytes = /VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kilobytes) / 1_024
}
