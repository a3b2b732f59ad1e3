import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Bench, BenchContext } from './bench.ts'
import { bulkhead } from './streams/bulkhead.ts'
import { overHttp, type Streamer } from './streams/contender.ts'
import { fanOut } from './streams/fan-out.ts'
import { measureStreams, type StreamsMeasured } from './streams/load.ts'
import { runPlatform, startPeer, startPlatform, startRedis, startUpstream } from './streams/processes.ts'
import type { Report } from './support/report.ts'
import { median, percentile } from './support/rounds.ts'

/** Tenants that the messages come from, so that no limit of one plan is in the way. */
const tenants = 20

/** Answers that are read as they come: 50 tokens a second. */
const pause = 20

/**
 * How long each contender answers before the first row. One answer at a time is few answers a second, and V8 optimises what has run often.
 */
const warmUpSeconds = 30

/** What an answer costs besides the model: until its first token, for each token, and for each who follows it. */
export const streams: Bench = {
  summary: 'time to the first token, tokens per second and CPU per token beside other agent servers, and fan-out beside ws',
  async run(context) {
    await using opened = new AsyncDisposableStack()
    const keep = <T extends { close(): Promise<void> }>(started: T): T => {
      opened.defer(() => started.close())
      return started
    }
    const upstream = keep(await startUpstream())
    const { env, operatorKey, databasePid } = await preparePlatform(context, upstream.url, opened)
    const platform = keep(await startPlatform('all', env))
    const mastra = keep(await startPeer('mastra', upstream.url, context.progress))
    const voltagent = keep(await startPeer('voltagent', upstream.url, context.progress))

    const direct = overHttp('the model itself', [], `${upstream.url}/chat/completions`, (content) => ({
      ...{ model: 'bench', stream: true, stream_options: { include_usage: true } },
      messages: [{ role: 'user', content }],
    }))
    const keys = await createTenants(platform.url, operatorKey)
    const own = bulkhead('Bulkhead', { processes: [platform.pid], database: [databasePid] }, platform.url, keys)
    const peers = [
      overHttp('Mastra', [mastra.pid], `${mastra.url}/api/agents/bench/stream`, (content) => ({
        messages: [{ role: 'user', content }],
      })),
      overHttp('VoltAgent', [voltagent.pid], `${voltagent.url}/agents/bench/stream`, (input) => ({ input })),
    ]
    const reports = []
    for (const [count, goal] of [
      [1, 10],
      [50, 0.5],
      [200, 0.15],
    ] as const) {
      reports.push(await firstTokens(context, count, goal, [direct, own, ...peers]))
    }
    reports.push(await saturated(context, [own, ...peers]))
    // It works on the same database, and would take runs that wait for others.
    await platform.close()
    const remote = await remoteWorker(context, env, keys, direct)
    return [...reports, ...(remote ? [remote] : []), await fanOut(context)]
  },
}

const few = (rounds: number) => Math.ceil(rounds / 5)

async function firstTokens(
  { rounds, progress, seconds }: BenchContext,
  count: number,
  goal: number,
  streamers: Streamer[],
): Promise<Report> {
  const order = { tokens: count === 1 ? 3 : 150, pause }
  const onRound = (round: number) => progress(`streams, first token of ${count}: round ${round} of ${few(rounds)}`)
  const load = { streams: count, order, seconds: 10 * seconds, rounds: few(rounds), onRound }
  const measured = await measureStreams(streamers, { ...load, warmUpSeconds: count === 1 ? warmUpSeconds : 1 })
  const [direct, own, ...peers] = measured as [StreamsMeasured, StreamsMeasured, ...StreamsMeasured[]]
  const added = (one: StreamsMeasured) =>
    median(one.firstToken.map((time, round) => time - (direct.firstToken[round] ?? Number.NaN)))
  const best = peers.toSorted((a, b) => added(a) - added(b))[0] as StreamsMeasured
  const what = `first token at ${count} ${count === 1 ? 'stream' : 'streams'}`
  const ratio = added(own) / added(best)
  return {
    title: `First token, ${count} ${count === 1 ? 'stream' : 'streams'}`,
    setup: [
      `${count} answers of ${order.tokens} tokens in flight, one token every ${pause} ms; who has read one to its end asks again.`,
      ...(count === 1 ? [`Each contender has answered for ${warmUpSeconds} s before.`] : []),
      'Added: the median beyond that of the model itself in the same round; the median of the rounds.',
    ],
    table: firstTokenTable(measured, (one) => (one === direct ? null : added(one))),
    verdicts: [
      count === 1
        ? { row: 6, goal: `${what}: ≤ ${goal} ms added`, measured: `${added(own).toFixed(1)} ms`, met: added(own) <= goal }
        : { row: 6, goal: `${what}: added ≤ ${goal}× ${best.name}`, measured: `${ratio.toFixed(2)}×`, met: ratio <= goal },
    ],
  }
}

/** The API in one process and the worker in another, with Redis between them; null without a `redis-server` on the path. */
async function remoteWorker(
  { rounds, progress, seconds }: BenchContext,
  env: Record<string, string>,
  keys: string[],
  direct: Streamer,
): Promise<Report | null> {
  await using opened = new AsyncDisposableStack()
  const redis = await startRedis()
  if (!redis) {
    progress('streams: there is no redis-server on the path, so no remote worker is measured.')
    return null
  }
  opened.defer(() => redis.close())
  const apart = { ...env, REDIS_URL: redis.url }
  const api = await startPlatform('api', apart)
  opened.defer(() => api.close())
  const worker = await startPlatform('worker', apart)
  opened.defer(() => worker.close())
  const parts = { processes: [api.pid, worker.pid], database: [] }
  const own = bulkhead('Bulkhead, worker remote', parts, api.url, keys, { tellsStart: true })
  const onRound = (round: number) => progress(`streams, remote worker: round ${round} of ${few(rounds)}`)
  const load = { streams: 1, order: { tokens: 3, pause }, seconds: 10 * seconds, warmUpSeconds, rounds: few(rounds), onRound }
  const measured = (await measureStreams([direct, own], load)) as [StreamsMeasured, StreamsMeasured]
  const added = median(measured[1].firstToken.map((time, round) => time - (measured[0].firstToken[round] ?? Number.NaN)))
  const start = percentile(measured[1].starts, 0.5)
  return {
    title: 'Worker remote',
    setup: [
      'One answer at a time; the API and the worker are processes of their own, with Redis and Postgres between them.',
      `From the message until a worker begins its run: p50 ${start.toFixed(0)} ms, p99 ${percentile(measured[1].starts, 0.99).toFixed(0)} ms.`,
    ],
    table: firstTokenTable(measured, (one) => (one === measured[0] ? null : added)),
    verdicts: [
      {
        row: 6,
        goal: 'a run starts at a remote worker, over Redis: ≤ 15 ms p50',
        measured: `${start.toFixed(0)} ms`,
        met: start <= 15,
      },
    ],
  }
}

function firstTokenTable(measured: readonly StreamsMeasured[], added: (one: StreamsMeasured) => number | null): Report['table'] {
  return {
    columns: ['', 'p50 ms', 'p99 ms', 'added ms', 'answers'],
    rows: measured.map((one) => [
      one.name,
      percentile(one.firstTokens, 0.5).toFixed(1),
      percentile(one.firstTokens, 0.99).toFixed(1),
      added(one)?.toFixed(1) ?? '',
      String(one.firstTokens.length),
    ]),
  }
}

/** As fast as it goes. */
async function saturated({ rounds, progress, seconds }: BenchContext, streamers: Streamer[]): Promise<Report> {
  const order = { tokens: 500, pause: 0 }
  const count = 32
  const onRound = (round: number) => progress(`streams, saturated: round ${round} of ${few(rounds)}`)
  const load = { streams: count, order, seconds: 8 * seconds, rounds: few(rounds), onRound }
  const measured = await measureStreams(streamers, load)
  const [own, ...peers] = measured as [StreamsMeasured, ...StreamsMeasured[]]
  const ratioOf = (one: number[], other: number[]) => median(one.map((value, round) => value / (other[round] ?? Number.NaN)))
  const best = peers.toSorted((a, b) => median(b.tokensPerSecond) - median(a.tokensPerSecond))[0] as StreamsMeasured
  const cheapest = peers.toSorted((a, b) => median(a.cpuPerToken) - median(b.cpuPerToken))[0] as StreamsMeasured
  const throughput = ratioOf(own.tokensPerSecond, best.tokensPerSecond)
  const cpu = ratioOf(own.cpuPerToken, cheapest.cpuPerToken)
  return {
    title: 'Saturated streams',
    setup: [
      `${count} answers of ${order.tokens} tokens in flight, as fast as the model and the reader are let; each token is an event of the model's.`,
      "CPU is that of the agent server's process. Bulkhead alone stores what is said: what Postgres takes for that is beside it.",
    ],
    table: {
      columns: ['', 'tokens/s', 'CPU µs/token', 'Postgres µs/token', 'ratio'],
      rows: measured.map((one) => [
        one.name,
        Math.round(median(one.tokensPerSecond)).toLocaleString('en'),
        median(one.cpuPerToken).toFixed(1),
        median(one.databaseCpuPerToken).toFixed(1),
        `${ratioOf(one.tokensPerSecond, own.tokensPerSecond).toFixed(2)}×`,
      ]),
    },
    verdicts: [
      { row: 7, goal: `saturated: tokens/s ≥ 1.8× ${best.name}`, measured: `${throughput.toFixed(2)}×`, met: throughput >= 1.8 },
      { row: 7, goal: `saturated: CPU per token ≤ 0.5× ${cheapest.name}`, measured: `${cpu.toFixed(2)}×`, met: cpu <= 0.5 },
    ],
  }
}

/** The platform's environment on the bench's database, and what makes tenants in it and answers their keys. */
async function preparePlatform(context: BenchContext, upstreamUrl: string, opened: AsyncDisposableStack) {
  const database = await context.database()
  const dataDir = await mkdtemp(join(tmpdir(), 'bulkhead-bench-'))
  opened.defer(() => rm(dataDir, { recursive: true, force: true }))
  const env = {
    DATABASE_URL: database.appUrl,
    DATABASE_PLATFORM_URL: database.platformUrl,
    BULKHEAD_DATA_DIR: dataDir,
    OPENAI_API_KEY: 'bench',
    OPENAI_BASE_URL: upstreamUrl,
    // The default of 100 would let half of 200 streams wait.
    BULKHEAD_RUN_CONCURRENCY: '400',
  }
  const { operatorKey } = JSON.parse(await runPlatform('seed', env))
  return { env, operatorKey, databasePid: database.pid }
}

async function createTenants(url: string, operatorKey: string): Promise<string[]> {
  const query =
    'mutation ($name: String!) { createTenant(input: { name: $name, plan: ENTERPRISE }) { ... on CreateTenantPayload { adminKey } ... on Problem { message } } }'
  const keys = []
  for (let index = 1; index <= tenants; index++) {
    const response = await fetch(`${url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${operatorKey}` },
      body: JSON.stringify({ query, variables: { name: `bench-${index}` } }),
    })
    const { data } = (await response.json()) as { data: { createTenant: { adminKey: string } } }
    keys.push(data.createTenant.adminKey)
  }
  return keys
}
