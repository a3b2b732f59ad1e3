import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { Bench } from './bench.ts'
import { planReport } from './support/capacity-plan.ts'
import { startChild } from './support/child.ts'
import { type Interval, type Load, startInterval, type UnitCost, unitCost } from './support/cluster-load.ts'
import { growthPerRun, markStorage, type StorageMark, streamsIn } from './support/cluster-storage.ts'
import { type Component, type PlatformCluster, pooledConnections, startPlatformCluster } from './support/platform-cluster.ts'
import type { ReadersCount } from './support/readers.ts'
import type { FromReaders, ToReaders } from './support/readers-process.ts'
import type { Report } from './support/report.ts'
import { percentile } from './support/rounds.ts'
import type { FromUpstream } from './support/token-upstream-process.ts'

/** Streams at a time, and tokens of an answer, on average. */
const full = { streams: 200, tokens: 300 }
/** First of all, so that code is compiled and caches are filled: many small runs. */
const warmUp = { streams: 20, tokens: 20 }
const short = { streams: 40, tokens: 100 }
const long = { streams: 40, tokens: 500 }
const tokensPerSecond = 50

/** Of `--seconds`, half a second unless it says otherwise, how many times as long each part is measured. */
const warmUpTurns = 50
const idleTurns = 20
const costTurns = 60
const fullTurns = 80

/** In seconds. After its beginning a load is left alone for a while: readers do not begin all at once. */
const settleFor = 5
const killEvery = 12
const awayFor = 5

const notOurs = 'not ours'

type Measured = { interval: Interval; count: ReadersCount }

/** The platform as it is deployed, each part in a process of its own: what a token and a run cost each of them, and what kills do. */
export const cluster: Bench = {
  summary: 'the deployed platform: cost of a token and a run by component, 200 streams, kills; needs redis-server, pgbouncer',
  byNameOnly: true,
  async run({ progress, seconds }) {
    const costFor = costTurns * seconds
    await using opened = new AsyncDisposableStack()
    const upstream = startChild<never, FromUpstream>('./token-upstream-process.ts')
    opened.defer(() => upstream.close())
    const { port } = await upstream.ask('listening')
    progress('starting the platform')
    const platform = await startPlatformCluster({ tenants: full.streams, upstreamUrl: `http://127.0.0.1:${port}/v1` })
    opened.defer(() => platform.stop())
    const readers = startChild<ToReaders, FromReaders>('./readers-process.ts')
    opened.defer(() => readers.close())
    const admin = new pg.Client({ connectionString: platform.adminUrl })
    await admin.connect()
    opened.defer(() => admin.end())

    const others: Component[] = [
      { name: `${notOurs}: the model`, pids: () => [upstream.pid] },
      { name: `${notOurs}: the readers`, pids: () => [readers.pid] },
    ]
    const components = [...platform.components, ...others]
    const interval = () => startInterval(components, platform.adminUrl)
    const begin = async (load: { streams: number; tokens: number }) => {
      const keys = platform.keys.slice(0, load.streams)
      await readers.ask('begin', { kind: 'begin', urls: platform.apiUrls, keys, tokens: load.tokens })
      await delay(settleFor * 1_000)
      await readers.ask('take', { kind: 'take' })
    }
    const measure = async (load: typeof full, length: number, meanwhile?: () => Promise<void>): Promise<Measured> => {
      await begin(load)
      const finish = await interval()
      await Promise.all([delay(length * 1_000), meanwhile?.()])
      const count = await readers.ask('take', { kind: 'take' })
      progress(`  ${count.runs} runs, ${count.tokens} tokens${count.problem === null ? '' : `; ${count.problem}`}`)
      return { interval: await finish(), count }
    }
    const end = () => readers.ask('end', { kind: 'end' })

    progress('warming up')
    await measure(warmUp, warmUpTurns * seconds)
    await end()
    progress('idle')
    await delay(settleFor * 1_000)
    const finishIdle = await interval()
    await delay(idleTurns * seconds * 1_000)
    const idle = await finishIdle()
    progress('short answers')
    const shortLoad = await measure(short, costFor)
    await end()
    progress('long answers')
    const longLoad = await measure(long, costFor)
    await end()
    if (shortLoad.count.runs === 0 || longLoad.count.runs === 0)
      throw new Error('No run ended in the time there was: this machine has too much else to do for figures.')

    progress(`${full.streams} streams`)
    const before = await markStorage(admin)
    const fullLoad = await measure(full, fullTurns * seconds)
    const streams = await streamsIn(platform.redis)
    const rest = await end()
    const after = await markStorage(admin)

    progress('kills')
    const killed = await measure(full, 4 * killEvery, () => kill(platform, progress))
    const last = await end()
    for (const complaint of platform.complaints().slice(0, 5)) progress(complaint.slice(0, 300))

    const counts = [shortLoad.count, longLoad.count, sum(fullLoad.count, rest)]
    return [
      costReport(platform, idle, shortLoad, longLoad),
      loadReport(fullLoad),
      checkReport(sum(...counts), sum(killed.count, last)),
      storageReport(before, after, fullLoad, streams),
      planReport(costsOf(idle, shortLoad, longLoad).filter(({ name }) => !name.startsWith(notOurs))),
    ]
  },
}

/** One after the other, each back after a while: a worker, an API, the master of the wake-ups. */
async function kill(platform: PlatformCluster, progress: (message: string) => void): Promise<void> {
  const kills = { 'a worker': platform.killWorker, 'an API': platform.killApi, 'a Redis master': platform.killMaster }
  for (const [name, strike] of Object.entries(kills)) {
    progress(`killing ${name}`)
    const { restart } = await strike()
    await delay(awayFor * 1_000)
    await restart()
    await delay((killEvery - awayFor) * 1_000)
  }
}

function costReport(platform: PlatformCluster, idle: Interval, shortLoad: Measured, longLoad: Measured): Report {
  const costs = costsOf(idle, shortLoad, longLoad)
  const describe = ({ count, interval }: Measured) =>
    `${rate(count.tokens, interval)} tokens/s and ${(count.runs / interval.seconds).toFixed(1)} runs/s`
  return {
    title: 'What a token and a run cost, by component',
    setup: [
      `2 APIs, 2 workers, Redis Cluster of 3 masters and 3 replicas, Postgres behind PgBouncer in transaction mode: ${pooledConnections} connections for each role, statement names ${platform.namedStatements ? 'on' : 'off'}.`,
      `${short.streams} streams, each of a tenant of its own, ${tokensPerSecond} tokens/s each, WebSockets; answers of ${short.tokens} tokens on average (${describe(shortLoad)}), then of ${long.tokens} (${describe(longLoad)}), ${shortLoad.interval.seconds.toFixed(0)} s each.`,
      `CPU is user and system of all the component's processes, from /proc; what it takes idle (${idle.seconds.toFixed(0)} s) is taken off, and two equations tell tokens from runs. A run is sending its message, following and storing it, and a tenth of a conversation.`,
      `${(longLoad.count.tokens / longLoad.count.events).toFixed(2)} tokens in an event.`,
    ],
    table: {
      columns: ['', 'processes', 'CPU µs per token', 'CPU ms per run', 'CPU idle', 'MB each'],
      rows: costs.map(({ name, processes, bytes, cost }) => [
        name,
        String(processes),
        cost.perToken.toFixed(1),
        cost.perRun.toFixed(2),
        `${(cost.idle * 100).toFixed(1)} %`,
        (bytes / processes / 1_048_576).toFixed(0),
      ]),
    },
    verdicts: [],
  }
}

function costsOf(idle: Interval, shortLoad: Measured, longLoad: Measured) {
  return longLoad.interval.components.map(({ name, bytes, processes }) => {
    const loadOf = (interval: Interval, count?: ReadersCount): Load => ({
      tokens: count?.tokens ?? 0,
      runs: count?.runs ?? 0,
      seconds: interval.seconds,
      cpuMillis: interval.components.find((each) => each.name === name)?.cpuMillis ?? 0,
    })
    const [none, few, many] = [
      loadOf(idle),
      loadOf(shortLoad.interval, shortLoad.count),
      loadOf(longLoad.interval, longLoad.count),
    ]
    return { name, bytes, processes, cost: unitCost(none, few, many) satisfies UnitCost }
  })
}

function loadReport({ interval, count }: Measured): Report {
  const asked = full.streams * tokensPerSecond
  const total = interval.components.reduce((all, { cpuMillis }) => all + cpuMillis, 0)
  const firstTokens = Float64Array.from(count.firstTokens).sort()
  return {
    title: `${full.streams} streams at a time`,
    setup: [
      `${full.streams} streams × ${tokensPerSecond} tokens/s = ${asked.toLocaleString('en')} tokens/s asked for, answers of ${full.tokens} tokens on average, ${interval.seconds.toFixed(0)} s.`,
      `Arrived: ${rate(count.tokens, interval)} tokens/s in ${rate(count.events, interval)} events/s, ${(count.runs / interval.seconds).toFixed(1)} runs/s; first token after ${percentile(firstTokens, 0.5).toFixed(0)} ms (p50), ${percentile(firstTokens, 0.99).toFixed(0)} ms (p99); ${(interval.commits / count.runs).toFixed(1)} transactions and ${(interval.wal / count.runs / 1_024).toFixed(1)} kB of write-ahead log per run.`,
      `All of this used ${(total / interval.seconds / 1_000).toFixed(2)} cores. Columns divide the component's CPU by tokens, and again by runs: not to be added up.`,
    ],
    table: {
      columns: ['', 'processes', 'CPU', 'CPU µs per token', 'CPU ms per run', 'MB'],
      rows: interval.components.map(({ name, cpuMillis, bytes, processes }) => [
        name,
        String(processes),
        `${(cpuMillis / interval.seconds / 10).toFixed(0)} %`,
        ((cpuMillis * 1_000) / count.tokens).toFixed(1),
        (cpuMillis / count.runs).toFixed(2),
        (bytes / 1_048_576).toFixed(0),
      ]),
    },
    verdicts: [],
  }
}

function checkReport(steady: ReadersCount, killed: ReadersCount): Report {
  const row = (name: string, of: (count: ReadersCount) => number | string) => [name, String(of(steady)), String(of(killed))]
  return {
    title: 'What arrived, token by token',
    setup: [
      `Each answer counts from 0, so that the reader can tell what is missing, and is compared with the stored reply.`,
      `Kills: with ${full.streams} streams, kill -9 of a worker, an API and the Redis master of the wake-ups, ${killEvery} s apart, each back after ${awayFor} s. Readers turn to the other API with their cursor.`,
    ],
    table: {
      columns: ['', 'no kills', 'with kills'],
      rows: [
        row('runs', ({ runs }) => runs.toLocaleString('en')),
        row('tokens', ({ tokens }) => tokens.toLocaleString('en')),
        row('tokens lost', ({ lost }) => lost),
        row('tokens doubled', ({ doubled }) => doubled),
        row('gaps', ({ gaps }) => gaps),
        row('answers unlike the stored reply', ({ different }) => different),
        row('runs without an answer', ({ failed }) => failed),
        row('runs that did not end within a minute', ({ unfinished }) => unfinished),
        row('sockets that broke', ({ reconnects }) => reconnects),
        row('mutations repeated', ({ repeats }) => repeats),
        row('answers begun anew', ({ resets }) => resets),
        row('longest pause in a stream, s', ({ longestPause }) => (longestPause / 1_000).toFixed(1)),
      ],
    },
    verdicts: [],
  }
}

function storageReport(
  before: StorageMark,
  after: StorageMark,
  { interval, count }: Measured,
  streams: { streams: number; bytes: number; events: number },
): Report {
  const growth = growthPerRun(before, after)
  const kilobytes = (bytes: number) => (bytes / 1_024).toFixed(2)
  return {
    title: 'What a run leaves behind',
    setup: [
      `${(after.runs - before.runs).toLocaleString('en')} runs with answers of ${full.tokens} tokens on average (a token here has ${(count.tokens === 0 ? 0 : meanTokenBytes(full.tokens)).toFixed(1)} bytes), tables and their indexes, vacuumed before and after.`,
      `Write-ahead log: ${kilobytes(interval.wal / count.runs)} kB a run while they ran, full pages after a checkpoint included.`,
      `Redis: ${streams.streams.toLocaleString('en')} streams, live or ended less than two minutes ago, of ${kilobytes(streams.bytes / streams.streams)} kB and ${(streams.events / streams.streams).toFixed(0)} events each, by MEMORY USAGE on their masters.`,
    ],
    table: {
      columns: ['', 'rows per run', 'kB per run'],
      rows: [
        ...growth.map(({ table, rows, bytes }) => [table, rows.toFixed(2), kilobytes(bytes)]),
        ['all', '', kilobytes(growth.reduce((all, { bytes }) => all + bytes, 0))],
      ],
    },
    verdicts: [],
  }
}

function sum(...counts: ReadersCount[]): ReadersCount {
  return counts.reduce((all, each) => {
    const added = Object.entries(all).map(([name, value]) => {
      const other = each[name as keyof ReadersCount]
      if (name === 'problem') return [name, value ?? other]
      if (name === 'longestPause') return [name, Math.max(value as number, other as number)]
      return [name, Array.isArray(value) ? value.concat(other as number[]) : (value as number) + (other as number)]
    })
    return Object.fromEntries(added) as ReadersCount
  })
}

function rate(count: number, { seconds }: Interval): string {
  return Math.round(count / seconds).toLocaleString('en')
}

/** Bytes of a counted token, on average over an answer of so many: its digits and a space. */
function meanTokenBytes(tokens: number): number {
  return Array.from({ length: tokens }, (_, index) => String(index).length + 1).reduce((all, each) => all + each, 0) / tokens
}
