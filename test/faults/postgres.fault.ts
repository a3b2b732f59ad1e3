import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startHoldingProxy } from '../support/holding-proxy.ts'
import { longest, rounds } from '../support/kills.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { type PostgresServer, startPostgresServer } from '../support/postgres-server.ts'
import { type FaultStage, openStage } from './stage.ts'
import { tried } from './tried.ts'
import { Witness } from './witness.ts'

/** How long backends are being terminated, and how long the server is frozen, in milliseconds. */
const outage = 4_000

let server: PostgresServer
let stage: FaultStage

beforeAll(async () => {
  server = await startPostgresServer()
  stage = await openStage({ database: server })
}, longest)

afterAll(async () => {
  await stage[Symbol.asyncDispose]()
  await server.stop()
})

/** Answers when it was over, and how often it was done. */
type Fault = () => Promise<{ over: number; times: number }>

const faults: [string, Fault][] = [
  [
    'postgres: stop -m immediate, started again at once',
    async () => {
      await server.crash()
      await server.restart()
      return { over: performance.now(), times: 1 }
    },
  ],
  ['postgres: idle backends terminated for 4 s', () => terminate("state = 'idle'", 200)],
  [
    'postgres: backends terminated in transaction for 4 s',
    () => terminate("state = 'idle in transaction' or xact_start is not null", 5),
  ],
  [
    'postgres: SIGSTOP of all its processes for 4 s',
    async () => {
      await server.pause()
      await delay(outage)
      await server.resume()
      return { over: performance.now(), times: 1 }
    },
  ],
]

describe('Postgres', () => {
  it.for(faults)('may fail: %s', { timeout: longest * rounds }, async ([fault, happens], { task }) => {
    for (let round = 0; round < rounds; round++) {
      await using witness = new Witness(stage)
      const { recovery, times } = await suffer(witness, happens)
      const verdict = await witness.judge()
      tried(task, fault, times, verdict, recovery)
      expect(times).toBeGreaterThan(0)
      expect(verdict.findings).toEqual([])
      expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
      expect(recovery).toBeLessThan(witness.allow(5_000))
    }
  })

  it('may vanish behind its connections', { timeout: longest }, async ({ task }) => {
    const own = await createTestDatabase()
    const [app, platform] = await Promise.all([startHoldingProxy(own.appUrl), startHoldingProxy(own.platformUrl)])
    try {
      const database = { adminUrl: own.adminUrl, appUrl: app.url, platformUrl: platform.url }
      await using far = await openStage({ database, env: { DATABASE_STATEMENT_TIMEOUT: '3000' } })
      await using witness = new Witness(far)
      const { recovery, times } = await suffer(witness, async () => ({
        times: app.loseAll() + platform.loseAll(),
        over: performance.now(),
      }))
      const verdict = await witness.judge()
      tried(task, 'postgres: all connections lost without a word', times, verdict, recovery)
      expect(verdict.findings).toEqual([])
      expect(verdict.slowestAnswer).toBeLessThan(witness.allow(3_000))
    } finally {
      await Promise.all([app.close(), platform.close()])
      await own.drop()
    }
  })
})

/** Has answers under way before, during and after the fault. Answers how long after it a mutation succeeded, in milliseconds. */
async function suffer(witness: Witness, fault: Fault): Promise<{ recovery: number; times: number }> {
  await witness.stream(10, (index) => ({ words: 20 + 6 * index, delayMs: 100 }))
  witness.startProbing()
  const failing = fault()
  const during = witness.askAll(6, () => ({ words: 10 }))
  const { over, times } = await failing
  const recovery = await witness.recovered(over)
  await during
  await (await witness.ask()).done
  return { recovery, times }
}

async function terminate(which: string, every: number): ReturnType<Fault> {
  const admin = new pg.Client({ connectionString: server.adminUrl })
  await admin.connect()
  let times = 0
  for (const end = performance.now() + outage; performance.now() < end; await delay(every)) {
    const { rowCount } = await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and (${which})`,
    )
    times += rowCount ?? 0
  }
  await admin.end()
  return { over: performance.now(), times }
}
