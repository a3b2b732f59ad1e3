import type { ClientContext, Result } from 'ioredis'
import { newId, type TenantId, tenantIdOf } from '../src/domain/ids.ts'
import { RedisAdmission } from '../src/redis/admission.ts'
import { connectRedis, type RedisConnection } from '../src/redis/connection.ts'
import { startRedisServer } from '../test/support/redis-server.ts'
import type { Bench } from './bench.ts'
import { atLeast, measurementTable } from './support/report.ts'
import { type Contender, measure, median } from './support/rounds.ts'

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext> {
    benchNothing(key: string, ...args: (string | number)[]): Result<unknown, Context>
  }
}

const callers = 16
/** So many that none is asked more often than a large customer's would be. */
const tenants = 2_000
/** CPU that an admission may add to a message, in microseconds. */
const mostCpu = 50

/** What it costs to decide all limits, beside the least that asking Redis costs, and beside asking limit by limit. */
export const admission: Bench = {
  summary: 'the admission of a message beside one GET and beside five sequential commands',
  async run({ progress, seconds, rounds }) {
    await using opened = new AsyncDisposableStack()
    const server = await startRedisServer()
    opened.defer(() => server.stop())
    const onError = (error: unknown) => {
      throw error
    }
    const connection = await connectRedis(server.target, { onError, commandTimeout: 10_000 })
    opened.defer(() => connection.close())
    const contenders = await contendersOn(connection)

    const onRound = (round: number) => progress(`admission: round ${round} of ${rounds}`)
    const measured = await measure(contenders, { callers, seconds, rounds, onRound })
    const [get, , admitted, five] = measured
    const table = measurementTable(measured)
    const ofRedis: string[] = []
    for (const contender of contenders) ofRedis.push((await cpuOfRedis(connection, contender)).toFixed(1))
    const cpu = median(admitted.cpuMicros)
    return [
      {
        title: 'Admission',
        setup: [
          `Of random tenants of ${tenants.toLocaleString('en')}; ${callers} callers, one connection, one redis-server on the same machine.`,
          'Each admission is of a new message under a new idempotency key, and is granted.',
        ],
        table: {
          columns: [...table.columns, "Redis' CPU µs/op"],
          rows: table.rows.map((row, index) => [...row, ofRedis[index] ?? '']),
        },
        verdicts: [
          atLeast(9, 0.8, admitted, get),
          atLeast(9, 3, admitted, five),
          {
            row: 9,
            goal: `admission ≤ ${mostCpu} µs of this process's CPU`,
            measured: `${cpu.toFixed(0)} µs`,
            met: cpu <= mostCpu,
          },
        ],
      },
    ]
  },
}

async function contendersOn(connection: RedisConnection) {
  const { commands } = connection
  const ids = Array.from({ length: tenants }, () => tenantIdOf(newId()))
  const anyTenant = () => ids[Math.floor(Math.random() * ids.length)] ?? tenantIdOf(newId())
  const counters = new RedisAdmission(connection)
  for (const id of ids) {
    await seed(counters, id)
    await commands.set(`${id}:a`, newId())
  }
  commands.defineCommand('benchNothing', { numberOfKeys: 1, lua: "return {'admitted', 1}" })
  return [
    { name: 'one GET', operation: async () => check(await commands.get(`${anyTenant()}:a`)) },
    {
      // The least that deciding in Redis costs, with the arguments of an admission.
      name: 'a script that does nothing',
      operation: async () =>
        check(await commands.benchNothing(`{q:${anyTenant()}}:a`, 'channel', '', 1, 20, 1_000, `r:${newId()}`, `i:${newId()}`)),
    },
    {
      name: 'admission',
      async operation() {
        const request = { version: 1, runId: newId(), key: newId(), contentTokens: 20, reserve: 1_000 }
        const { outcome } = await counters.admit(anyTenant(), request)
        check(outcome === 'admitted')
      },
    },
    {
      name: 'five sequential commands',
      async operation() {
        const id = anyTenant()
        check(await commands.set(`${id}:i:${newId()}`, newId(), 'PX', 600_000, 'NX'))
        check(await commands.incr(`${id}:m`))
        check(await commands.incr(`${id}:d`))
        check(await commands.zadd(`${id}:l`, Date.now() + 60_000, newId()))
        check(await commands.hincrby(`${id}:b`, 'reserved', 1_000))
      },
    },
  ] as const satisfies Contender[]
}

/** Limits that are not reached. */
async function seed(counters: RedisAdmission, tenantId: TenantId): Promise<void> {
  const asked = await counters.read(tenantId, 1)
  if (asked.outcome === 'read') return
  const { now, mark } = asked
  const period = { start: now - 1_000, end: now + 24 * 60 * 60_000 }
  const most = 1_000_000_000_000
  const limits = {
    ...{ MESSAGES_PER_MINUTE: most, MESSAGES_PER_DAY: most, TOKENS_PER_MESSAGE: most },
    ...{ CONCURRENT_SESSIONS: most, MONTHLY_TOKENS: most },
  }
  const terms = { version: 1, limits, validUntil: null, day: period, month: period }
  await counters.seed(tenantId, mark, terms, { recent: [], today: 0, spent: 0, calls: [], sessions: [] })
}

/** In microseconds per operation, user and system, all its threads, over one second. */
async function cpuOfRedis({ commands }: RedisConnection, { operation }: Contender): Promise<number> {
  const used = async () =>
    [...(await commands.info('cpu')).matchAll(/^used_cpu_(?:sys|user):([\d.]+)/gm)].reduce(
      (sum, [, value]) => sum + Number(value),
      0,
    )
  const before = await used()
  const end = performance.now() + 1_000
  let operations = 0
  const call = async () => {
    for (; performance.now() < end; operations++) await operation()
  }
  await Promise.all(Array.from({ length: callers }, call))
  return (1_000_000 * ((await used()) - before)) / operations
}

function check(done: unknown): void {
  if (!done) throw new Error('It was not done.')
}
