import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isOutage } from '../../src/data/outage.ts'
import { MissingScope, TenantPool, type TenantPoolOptions } from '../../src/data/tenant-pool.ts'
import { TenantData, type TenantDb } from '../../src/data/tenant-scope.ts'
import { NotFound } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { adminQuery } from '../support/database-url.ts'
import { startHoldingProxy } from '../support/holding-proxy.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

/** The ways a statement can reach the database, all of them. */
const ways: Record<string, (db: TenantDb) => Promise<unknown>> = {
  'a shared connection': (db) => db.agent.findFirst({ where: { id: newId() } }),
  'its own connection': (db) => db.agent.findMany(),
  'raw SQL': (db) => db.$queryRaw`select 1`,
  'a transaction': (db) => db.$transaction((tx) => tx.agent.findMany()),
}

async function withDb<T>(options: TenantPoolOptions, work: (db: TenantDb) => Promise<T>): Promise<T> {
  const data = new TenantData(new TenantPool(options))
  try {
    return await work(data.of({ tenantId: newId(), userId: null }))
  } finally {
    await data.close()
  }
}

/** Does `work` while the only connection of its pool is taken. */
async function withBusyPool<T>(work: (db: TenantDb) => Promise<T>): Promise<T> {
  return withDb({ connectionString: database.appUrl, max: 1, connectionTimeoutMillis: 500 }, async (db) => {
    const taken = Promise.withResolvers<void>()
    const done = Promise.withResolvers<void>()
    const holder = db.$transaction(async (tx) => {
      await tx.$queryRaw`select 1`
      taken.resolve()
      await done.promise
    })
    await Promise.race([taken.promise, holder])
    try {
      return await work(db)
    } finally {
      done.resolve()
      await holder
    }
  })
}

const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => expect.unreachable('It succeeded.'),
    (error) => error,
  )

/** Waits until the database executes that many slow statements. */
async function running(count: number): Promise<void> {
  const admin = new pg.Client({ connectionString: database.adminUrl })
  await admin.connect()
  for (;;) {
    const { rows } = await admin.query(
      "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep(10)%' AND pid <> pg_backend_pid()",
    )
    if (rows.length >= count) return admin.end()
    await delay(20)
  }
}

describe('an outage', () => {
  describe.each(Object.entries(ways))('over %s', (_, query) => {
    const failureAt = (host: string) =>
      withDb({ connectionString: `postgres://nobody:unused@${host}/nowhere`, shared: 1, connectionTimeoutMillis: 200 }, (db) =>
        failureOf(query(db)),
      )

    async function failureOn(onSocket: (socket: Socket) => void): Promise<unknown> {
      const server = createServer(onSocket).listen(0, '127.0.0.1')
      await once(server, 'listening')
      const failure = await failureAt(`127.0.0.1:${(server.address() as AddressInfo).port}`)
      server.close()
      await once(server, 'close')
      return failure
    }

    test('is a server that hangs up', async () => {
      expect(isOutage(await failureOn((socket) => void socket.destroy()))).toBe(true)
    })

    test('is a port where nothing listens, on every address of the host', async () => {
      const server = createServer().listen(0, '127.0.0.1')
      await once(server, 'listening')
      const { port } = server.address() as AddressInfo
      server.close()
      await once(server, 'close')
      expect(isOutage(await failureAt(`127.0.0.1:${port}`))).toBe(true)
      expect(isOutage(await failureAt(`localhost:${port}`))).toBe(true)
    })

    test('is a host that is not found', async () => {
      expect(isOutage(await failureAt('nowhere.invalid'))).toBe(true)
    })
  })

  describe.each(Object.entries(ways).filter(([way]) => way !== 'a shared connection'))('over %s', (_, query) => {
    test('is a server that never answers', async () => {
      const sockets: Socket[] = []
      const server = createServer((socket) => void sockets.push(socket)).listen(0, '127.0.0.1')
      await once(server, 'listening')
      const connectionString = `postgres://nobody:unused@127.0.0.1:${(server.address() as AddressInfo).port}/nowhere`
      const failure = await withDb({ connectionString, connectionTimeoutMillis: 200 }, (db) => failureOf(query(db)))
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
      expect(isOutage(failure)).toBe(true)
    })

    test('is a pool without a free connection', async () => {
      expect(isOutage(await withBusyPool((db) => failureOf(query(db))))).toBe(true)
    })
  })

  test.each(Object.entries(ways))(
    'over %s is a connection that was lost without a word, and the next is another',
    async (_, query) => {
      const proxy = await startHoldingProxy(database.appUrl)
      try {
        await withDb({ connectionString: proxy.url, max: 1, shared: 1, statementTimeoutMillis: 200 }, async (db) => {
          await query(db)
          proxy.loseAll()
          // A read that shares its connection is sent again by itself.
          const outcome = await query(db).catch(isOutage)
          if (outcome !== null) expect(outcome).toBe(true)
          await query(db)
        })
      } finally {
        await proxy.close()
      }
    },
  )

  test('is noticed on a connection that was lost though others keep writing to it', async () => {
    const proxy = await startHoldingProxy(database.appUrl)
    try {
      await withDb({ connectionString: proxy.url, max: 1, shared: 1, statementTimeoutMillis: 500 }, async (db) => {
        const read = () => ways['a shared connection']?.(db)
        await read()
        proxy.loseAll()
        const lostAt = performance.now()
        const reads: Promise<unknown>[] = []
        const writing = setInterval(() => reads.push(Promise.resolve(read()).catch(isOutage)), 50)
        // It is given up after the bound of a statement and a second, and the read is sent again.
        await read()
        clearInterval(writing)
        expect(performance.now() - lostAt).toBeLessThan(10_000)
        await Promise.all(reads)
      })
    } finally {
      await proxy.close()
    }
  })

  test('is expected of connections that nobody uses when one of them was lost', async () => {
    const proxy = await startHoldingProxy(database.appUrl)
    try {
      await withDb({ connectionString: proxy.url, max: 3, shared: 0, statementTimeoutMillis: 500 }, async (db) => {
        const atOnce = () => Promise.all([1, 2, 3].map(() => db.$queryRaw`select pg_sleep(0.1)::text`))
        await atOnce()
        expect(proxy.open).toBe(3)
        proxy.loseAll()
        expect(isOutage(await failureOf(db.agent.findMany()))).toBe(true)
        // One after the other they would each be waited for.
        await db.agent.findMany()
        await atOnce()
      })
    } finally {
      await proxy.close()
    }
  })

  test('is not a statement that takes its time, nor a connection that has nothing to say', async () => {
    await withDb({ connectionString: database.appUrl, max: 1, statementTimeoutMillis: 500 }, async (db) => {
      expect(isOutage(await failureOf(db.$queryRaw`select pg_sleep(3)::text`))).toBe(false)
      const [before] = await db.$queryRaw<{ pid: number }[]>`select pg_backend_pid() as pid`
      await delay(2_000)
      expect(await db.$queryRaw<{ pid: number }[]>`select pg_backend_pid() as pid`).toEqual([before])
    })
  })

  test('is a transaction that cannot start in time', async () => {
    const failure = await withBusyPool((db) => failureOf(db.$transaction((tx) => tx.agent.findMany(), { maxWait: 100 })))
    expect(isOutage(failure)).toBe(true)
  })

  test('is a server that goes away during a statement', async () => {
    await withDb({ connectionString: database.appUrl }, async (db) => {
      const slow = [
        failureOf(db.$queryRaw`select pg_sleep(10)::text`),
        failureOf(db.$transaction((tx) => tx.$queryRaw`select pg_sleep(10)::text`)),
      ]
      await running(2)
      await adminQuery(
        database.adminUrl,
        'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
      )
      for (const failure of slow) expect(isOutage(await failure)).toBe(true)
    })
  })
})

describe('no outage', () => {
  test('is what the database refuses', async () => {
    await withDb({ connectionString: database.appUrl }, async (db) => {
      const failures = [
        failureOf(db.$queryRaw`select 1 / 0`),
        failureOf(db.$queryRaw`select nonsense`),
        failureOf(db.$executeRaw`delete from usage_records`),
        failureOf(db.agent.create({ data: { id: newId(), tenantId: newId(), slug: 'a', name: 'A', activeVersion: 1 } })),
        failureOf(db.agent.findMany({ cursor: { tenantId_id: { tenantId: newId(), id: newId() } } })),
        failureOf(db.$transaction((tx) => tx.$queryRaw`select pg_sleep(1)::text`, { timeout: 100 })),
      ]
      for (const failure of failures) expect(isOutage(await failure)).toBe(false)
    })
  })

  test('is anything else', () => {
    for (const error of [new NotFound('agent'), new MissingScope(), new TypeError('x'), 'timeout expired', null, undefined]) {
      expect(isOutage(error)).toBe(false)
    }
  })
})
