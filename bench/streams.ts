import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Bench, BenchContext } from './bench.ts'
import { bulkhead } from './streams/bulkhead.ts'
import { overHttp, type Streamer } from './streams/contender.ts'
import { measureStreams, type StreamsMeasured } from './streams/load.ts'
import { runPlatform, startPeer, startPlatform, startRedis, startUpstream } from './streams/processes.ts'
import type { Report } from './support/report.ts'
import { median, percentile } from './support/rounds.ts'

/** Tenants that the messages come from, so that no limit of one plan is in the way. */
const tenants = 20

/** Answers that are read as they come: 50 tokens a second. */
const pause = 20

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
    const { env, keys, database } = await preparePlatform(context, upstream.url, opened)
    const platform = keep(await startPlatform('all', env))
    const mastra = keep(await startPeer('mastra', upstream.url, context.progress))
    const voltagent = keep(await startPeer('voltagent', upstream.url, context.progress))

    const direct = overHttp('the model itself', [], `${upstream.url}/chat/completions`, (content) => ({
      ...{ model: 'bench', stream: true, stream_options: { include_usage: true } },
      messages: [{ role: 'user', content }],
    }))
    const own = bulkhead('Bulkhead', [platform.pid], platform.url, await keys(platform.url))
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
    reports.push(await saturated(context, [own, ...peers], database.pid))
    return reports
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
  const measured = await measureStreams(streamers, { streams: count, order, seconds: 10 * seconds, rounds: few(rounds), onRound })
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
      'Added: the median beyond that of the model itself in the same round; the median of the rounds.',
    ],
    table: {
      columns: ['', 'p50 ms', 'p99 ms', 'added ms', 'answers'],
      rows: measured.map((one) => [
        one.name,
        percentile(one.firstTokens, 0.5).toFixed(1),
        percentile(one.firstTokens, 0.99).toFixed(1),
        one === direct ? '' : added(one).toFixed(1),
        String(one.firstTokens.length),
      ]),
    },
    verdicts: [
      count === 1
        ? { row: 6, goal: `${what}: ≤ ${goal} ms added`, measured: `${added(own).toFixed(1)} ms`, met: added(own) <= goal }
        : { row: 6, goal: `${what}: added ≤ ${goal}× ${best.name}`, measured: `${ratio.toFixed(2)}×`, met: ratio <= goal },
    ],
  }
}

/** As fast as it goes. */
async function saturated(
  { rounds, progress, seconds }: BenchContext,
  streamers: Streamer[],
  databasePid: number,
): Promise<Report> {
  const order = { tokens: 500, pause: 0 }
  const count = 32
  const onRound = (round: number) => progress(`streams, saturated: round ${round} of ${few(rounds)}`)
  const load = { streams: count, order, seconds: 8 * seconds, rounds: few(rounds), onRound }
  void databasePid
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
      "CPU is that of the agent server's process, and not that of Postgres, which Bulkhead alone has.",
    ],
    table: {
      columns: ['', 'tokens/s', 'CPU µs/token', 'ratio'],
      rows: measured.map((one) => [
        one.name,
        Math.round(median(one.tokensPerSecond)).toLocaleString('en'),
        median(one.cpuPerToken).toFixed(1),
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
  return { env, database, keys: (url: string) => createTenants(url, operatorKey) }
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
void startRedis
