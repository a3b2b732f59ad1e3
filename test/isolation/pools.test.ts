// @module-tag rule-4
import { afterAll, beforeAll, describe, expect, it, type RunnerTestCase } from 'vitest'
import { TenantPool, type TenantPoolOptions } from '../../src/data/tenant-pool.ts'
import { newId } from '../../src/domain/ids.ts'
import { watchCheckIns } from '../support/check-ins.ts'
import { crowdStatements, seedCrowd, sendCrowd } from '../support/crowd.ts'
import { adminQuery } from '../support/database-url.ts'
import { type PgBouncer, pgBouncerAvailable, pgBouncerKeepsNames, pgBouncerSuite, startPgBouncer } from '../support/pgbouncer.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { tried } from './tried.ts'

let database: TestDatabase
let tenants: Awaited<ReturnType<typeof seedCrowd>>

beforeAll(async () => {
  database = await createTestDatabase()
  tenants = await seedCrowd(database.adminUrl)
})

afterAll(() => database.drop())

/** Sends a crowd through a pool and expects no leak, and no connection that kept anything. */
async function expectNoLeaks(options: TenantPoolOptions, task: RunnerTestCase): Promise<void> {
  const pool = new TenantPool(options)
  const checkIns = watchCheckIns(pool)
  try {
    const { leaks, broken, statements } = await sendCrowd(pool, tenants, database.adminUrl)
    await checkIns.stop()
    tried(task, { cases: statements, leaks: leaks.length + checkIns.dirty.length })
    expect(leaks).toEqual([])
    expect(checkIns.dirty).toEqual([])
    expect(statements).toBeGreaterThanOrEqual(crowdStatements)
    expect(checkIns.count).toBeGreaterThan(statements / 2)
    // Somebody met each of the terminated backends, and only who was using it then.
    expect(broken).toBeGreaterThan(0)
    expect(broken).toBeLessThan(100)
  } finally {
    await pool.end()
  }
}

const patience = 60_000 + crowdStatements * 10

describe(`${crowdStatements} interleaved statements of 20 tenants and their users`, () => {
  it.for([
    { name: 'named statements', namedStatements: true },
    { name: 'unnamed statements', namedStatements: false },
  ])(
    'stay apart on three exclusive and two shared connections, $name',
    { timeout: patience },
    async ({ namedStatements }, { task }) => {
      const limits = { max: 3, shared: 2, statementTimeoutMillis: 1_000 }
      await expectNoLeaks({ connectionString: database.appUrl, namedStatements, ...limits }, task)
    },
  )
})

describe.skipIf(!pgBouncerAvailable)(pgBouncerSuite('behind PgBouncer in transaction mode with one server connection'), () => {
  let bouncer: PgBouncer

  beforeAll(async () => {
    // PgBouncer refuses the start-up parameter, so the bound on a statement is the database's.
    await adminQuery(
      database.adminUrl,
      `alter database ${new URL(database.adminUrl).pathname.slice(1)} set statement_timeout = 1000`,
    )
    bouncer = await startPgBouncer(database.appUrl)
  })

  afterAll(() => bouncer.stop())

  const pools = [true, false].flatMap((namedStatements) => [0, 2].map((shared) => ({ namedStatements, shared })))

  it.for(pools.filter(({ namedStatements }) => !namedStatements || pgBouncerKeepsNames()))(
    `${crowdStatements} interleaved statements stay apart, named: $namedStatements, shared connections: $shared`,
    { timeout: patience },
    async (options, { task }) => {
      await expectNoLeaks({ connectionString: bouncer.url, max: 3, statementTimeoutMillis: 0, ...options }, task)
    },
  )

  if (!pgBouncerKeepsNames()) {
    it('fails statements that have names, rather than mixing them up', async () => {
      const pool = new TenantPool({ connectionString: bouncer.url, max: 2, shared: 0, statementTimeoutMillis: 0 })
      const wall = { tenantId: newId(), userId: null, shortRead: false }
      const statements = [0, 1].map(() => pool.within(wall, () => pool.query({ name: 'one', text: 'select 1' })))
      const outcomes = await Promise.allSettled(statements)
      await pool.end()
      expect(outcomes).toContainEqual({ status: 'rejected', reason: expect.objectContaining({ code: '42P05' }) })
    })
  }
})
