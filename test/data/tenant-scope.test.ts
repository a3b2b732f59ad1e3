import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { Prisma } from '../../src/data/generated/client.ts'
import { isOutage } from '../../src/data/outage.ts'
import { SharedConnections } from '../../src/data/shared-connections.ts'
import { SilenceWatch } from '../../src/data/silence.ts'
import { UnscopedOperation } from '../../src/data/tenant-filter.ts'
import { MissingScope, TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData, type TenantDb } from '../../src/data/tenant-scope.ts'
import { newId } from '../../src/domain/ids.ts'
import { crowdStatements } from '../support/crowd.ts'
import { adminQuery } from '../support/database-url.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase
let pool: TenantPool
let data: TenantData

beforeAll(async () => {
  database = await createTestDatabase()
  pool = new TenantPool({ connectionString: database.appUrl, max: 3 })
  data = new TenantData(pool)
})

afterAll(async () => {
  await data.close()
  await database.drop()
})

const config = {
  status: 'PUBLISHED',
  systemPrompt: '',
  model: 'm',
  temperature: 1,
  maxOutputTokens: 1,
  maxTurns: 1,
  branding: {},
} as const

/** A tenant with one agent and one conversation, both named after it. */
async function seedTenant(source = data) {
  const tenantId = newId()
  const name = `tenant ${tenantId}`
  await adminQuery(database.adminUrl, `insert into tenants (id, name, plan) values ('${tenantId}', '${name}', 'FREE')`)
  const db = source.of({ tenantId, userId: null })
  const agent = await db.agent.create({
    data: {
      id: newId(),
      tenantId,
      slug: 'main',
      name,
      activeVersion: 1,
      configs: { create: { id: newId(), version: 1, ...config } },
    },
  })
  const conversation = await db.conversation.create({ data: { id: newId(), tenantId, agentId: agent.id, title: name } })
  return { tenantId, name, db, agent, conversation, key: { tenantId_id: { tenantId, id: conversation.id } } }
}

describe('two tenants', { tags: ['two-walls'] }, () => {
  it("see their own rows and nothing of the other's, by whatever operation", async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    expect(await a.db.conversation.findMany({ select: { title: true } })).toEqual([{ title: a.name }])
    expect(await a.db.conversation.count()).toBe(1)
    expect(await a.db.tenant.findMany({ select: { name: true } })).toEqual([{ name: a.name }])
    expect(await a.db.conversation.findUnique({ where: b.key })).toBeNull()
    expect(await a.db.conversation.findFirst({ where: { id: b.conversation.id } })).toBeNull()
    expect(await a.db.conversation.findMany({ where: { OR: [{ tenantId: b.tenantId }, { id: b.conversation.id }] } })).toEqual([])
    expect(await a.db.conversation.updateMany({ where: { id: b.conversation.id }, data: { title: 'stolen' } })).toEqual({
      count: 0,
    })
    expect(await a.db.conversation.deleteMany({ where: { id: b.conversation.id } })).toEqual({ count: 0 })
    await expect(a.db.conversation.update({ where: b.key, data: { title: 'stolen' } })).rejects.toMatchObject({ code: 'P2025' })
    await expect(a.db.conversation.delete({ where: b.key })).rejects.toMatchObject({ code: 'P2025' })
    expect(await b.db.conversation.findUniqueOrThrow({ where: b.key })).toMatchObject({ title: b.name })
  })

  it('cannot point a row at the other, even past the filter', { tags: ['rule-9'] }, async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const stray = { id: newId(), tenantId: a.tenantId, agentId: b.agent.id }
    await expect(a.db.conversation.create({ data: stray })).rejects.toMatchObject({ code: 'P2003' })
    await expect(a.db.conversation.create({ data: { ...stray, tenantId: b.tenantId } })).rejects.toThrow(UnscopedOperation)
    await expect(
      a.db
        .$executeRaw`insert into conversations (id, tenant_id, agent_id) values (${newId()}::uuid, ${b.tenantId}::uuid, ${b.agent.id}::uuid)`,
    ).rejects.toThrow(/row-level security/)
  })

  it('stay apart when their look-ups fall into one tick', async () => {
    const tenants = await Promise.all(Array.from({ length: 8 }, () => seedTenant()))
    const found = await Promise.all(
      tenants.flatMap(({ db, key }) => [0, 1, 2].map(() => db.conversation.findUnique({ where: key }))),
    )
    expect(found.map((row) => row?.title)).toEqual(tenants.flatMap(({ name }) => [name, name, name]))
  })

  it('stay apart when a query is built by one and awaited by the other', async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const lazy = a.db.conversation.findMany({ select: { title: true } })
    const seen = await b.db.$transaction(async (tx) => [await tx.conversation.count(), await lazy])
    expect(seen).toEqual([1, [{ title: a.name }]])
  })
})

describe('an end user', { tags: ['rule-18'] }, () => {
  it("sees and makes only that user's rows", async () => {
    const tenant = await seedTenant()
    const ann = data.of({ tenantId: tenant.tenantId, userId: 'ann' })
    const bob = data.of({ tenantId: tenant.tenantId, userId: 'bob' })
    const row = { tenantId: tenant.tenantId, agentId: tenant.agent.id }
    await ann.conversation.create({ data: { id: newId(), ...row } })
    expect(await ann.conversation.findMany({ select: { userId: true } })).toEqual([{ userId: 'ann' }])
    expect(await bob.conversation.count()).toBe(0)
    expect(await bob.agent.count({ where: { conversations: { some: { userId: 'ann' } } } })).toBe(0)
    expect(await tenant.db.conversation.count()).toBe(2)
    await expect(bob.conversation.create({ data: { id: newId(), ...row, userId: 'ann' } })).rejects.toThrow(UnscopedOperation)
    await expect(
      bob.$executeRaw`insert into conversations (id, tenant_id, agent_id, user_id)
                      values (${newId()}::uuid, ${row.tenantId}::uuid, ${row.agentId}::uuid, 'ann')`,
    ).rejects.toThrow(/row-level security/)
  })
})

it('is never made for the empty user, who to Postgres would be staff', { tags: ['rule-18'] }, () => {
  expect(() => data.of({ tenantId: newId(), userId: '' })).toThrow(UnscopedOperation)
})

describe('what a statement answers', () => {
  /** How often the connections asked for columns while `work` was done. */
  async function descriptionsDuring(work: () => Promise<unknown>): Promise<number> {
    const asked = vi.spyOn(
      (pg as unknown as { Connection: { prototype: { describe(): void } } }).Connection.prototype,
      'describe',
    )
    try {
      await work()
      return asked.mock.calls.length
    } finally {
      asked.mockRestore()
    }
  }

  it.each([
    ['its own connection', (db: TenantDb) => db.conversation.findMany()],
    ['a shared connection', (db: TenantDb) => db.$queryShort`select id, title from conversations`],
    ['a statement without rows', (db: TenantDb) => db.$executeRaw`update conversations set title = title`],
  ])('is asked for once on each connection: %s', async (_, read) => {
    const one = new TenantPool({ connectionString: database.appUrl, max: 1, shared: 1 })
    const source = new TenantData(one)
    onTestFinished(() => source.close())
    const { db } = await seedTenant(source)
    const first = await read(db)
    expect(await descriptionsDuring(async () => expect(await read(db)).toEqual(first))).toBe(0)
    const [a, b] = [await seedTenant(source), await seedTenant(source)]
    expect(await Promise.all([read(a.db), read(b.db), read(db)])).toEqual([await read(a.db), await read(b.db), first])
  })

  it('is refused rather than misread when the columns have become others', async () => {
    const one = new TenantPool({ connectionString: database.appUrl, max: 1 })
    const source = new TenantData(one)
    onTestFinished(() => source.close())
    const { db } = await seedTenant(source)
    await adminQuery(database.adminUrl, 'create table changing as select 1 as a; grant select on changing to bulkhead_app')
    const read = () => db.$queryRaw`select * from changing`
    for (let time = 0; time < 3; time++) expect(await read()).toEqual([{ a: 1 }])
    await adminQuery(
      database.adminUrl,
      `drop table changing; create table changing as select 'x' as b, 2 as a; grant select on changing to bulkhead_app`,
    )
    await expect(read()).rejects.toThrow('cached plan must not change result type')
    await adminQuery(database.adminUrl, 'drop table changing')
  })
})

describe('a transaction', { tags: ['rule-6'] }, () => {
  it('keeps one connection, sees its own writes, and leaves nothing when it throws', async () => {
    const { db, tenantId, agent } = await seedTenant()
    const work = db.$transaction(async (tx) => {
      const backends = [await backendOf(tx), await backendOf(tx)]
      const row = await tx.conversation.create({ data: { id: newId(), tenantId, agentId: agent.id, title: 'draft' } })
      expect(await tx.conversation.findUnique({ where: { tenantId_id: { tenantId, id: row.id } } })).toMatchObject({
        title: 'draft',
      })
      await tx.$executeRaw`update conversations set title = 'raw' where id = ${row.id}::uuid`
      await tx.agent.update({
        where: { tenantId_id: { tenantId, id: agent.id } },
        data: { configs: { create: { id: newId(), version: 2, ...config } } },
      })
      backends.push(await backendOf(tx))
      expect(new Set(backends).size).toBe(1)
      throw new Error('changed my mind')
    })
    await expect(work).rejects.toThrow('changed my mind')
    expect(await db.conversation.count()).toBe(1)
    expect(await db.agentConfig.count()).toBe(1)
  })

  it('sends one statement at a time, also when Prisma hands it several', async () => {
    const { db } = await seedTenant()
    const warnings: Error[] = []
    const onWarning = (warning: Error) => void warnings.push(warning)
    process.on('warning', onWarning)
    await db.$transaction((tx) => tx.agent.findMany({ include: { configs: true, conversations: true, runs: true } }))
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect(warnings).toEqual([])
  })

  it('does not report success when a swallowed error made Postgres roll it back', async () => {
    const { db, tenantId, agent, conversation } = await seedTenant()
    const work = db.$transaction(async (tx) => {
      await tx.conversation.create({ data: { id: newId(), tenantId, agentId: agent.id } })
      await tx.conversation.create({ data: { id: conversation.id, tenantId, agentId: agent.id } }).catch(() => 'swallowed')
    })
    await expect(work).rejects.toThrow(/rolled back/)
    expect(await db.conversation.count()).toBe(1)
  })

  it('undoes all of a nested write when its last part fails', async () => {
    const { db, tenantId } = await seedTenant()
    const twice = { version: 1, ...config }
    const work = db.agent.create({
      data: {
        id: newId(),
        tenantId,
        slug: 'second',
        name: 'x',
        activeVersion: 1,
        configs: {
          create: [
            { id: newId(), ...twice },
            { id: newId(), ...twice },
          ],
        },
      },
    })
    await expect(work).rejects.toMatchObject({ code: 'P2002' })
    expect(await db.agent.count()).toBe(1)
  })

  it('is rolled back when it runs past its time', async () => {
    const { db, tenantId, agent } = await seedTenant()
    const work = db.$transaction(
      async (tx) => {
        await tx.conversation.create({ data: { id: newId(), tenantId, agentId: agent.id } })
        await new Promise((resolve) => setTimeout(resolve, 150))
        await tx.conversation.count()
      },
      { timeout: 50 },
    )
    await expect(work).rejects.toMatchObject({ code: 'P2028' })
    expect(await db.conversation.count()).toBe(1)
  })
})

describe('outside a scope', { tags: ['async-context'] }, () => {
  it('sends nothing', async () => {
    await expect(pool.query({ text: 'select 1' })).rejects.toThrow(MissingScope)
    await expect(pool.connect()).rejects.toThrow(MissingScope)
  })

  it('offers no way out of the scope', { tags: ['rule-7'] }, async () => {
    const { db } = await seedTenant()
    const open = db as unknown as Record<string, (...args: unknown[]) => Promise<unknown>> & { operatorKey: TenantDb['agent'] }
    for (const way of ['$queryRawUnsafe', '$executeRawUnsafe', '$extends', '$connect', '$disconnect', '$on']) {
      expect(() => open[way], way).toThrow(UnscopedOperation)
    }
    await expect(open['$transaction']?.([])).rejects.toThrow(UnscopedOperation)
    await expect(open.operatorKey.findMany()).rejects.toThrow(UnscopedOperation)
    await db.$transaction(async (tx) => {
      expect(() => (tx as unknown as typeof open)['$queryRawUnsafe']).toThrow(UnscopedOperation)
    })
  })
})

describe('raw SQL', () => {
  const values = (db: Pick<TenantDb, '$queryRaw'>) => db.$queryRaw<Record<string, unknown>[]>`
    select ${'a'}::text as text, ${null}::text as nothing, ${7}::int as small, ${7n}::int8 as large, ${0.5}::float8 as fraction,
      ${true}::boolean as truth, ${new Date(1_700_000_000_123)}::timestamptz as moment, '2026-01-31'::date as day,
      ${'0198f3a0-0000-7000-8000-000000000000'}::uuid as id, 'QUEUED'::run_status as status,
      ${new Uint8Array([0, 255])}::bytea as bytes, ${'{"a": [1, null]}'}::jsonb as json, 'null'::json as none,
      ${['a', 'b,"c"']}::text[] as texts, ${[1, 2]}::int[] as numbers, array[true] as truths, ${[]}::uuid[] as ids`

  it('is answered the same in a transaction, by the client, and outside of one, without it', async () => {
    const { db } = await seedTenant()
    const outside = await values(db)
    expect(outside).toEqual(await db.$transaction((tx) => values(tx)))
    expect(outside).toMatchObject([
      { large: 7n, moment: new Date(1_700_000_000_123), bytes: new Uint8Array([0, 255]), texts: ['a', 'b,"c"'] },
    ])
  })

  it('is counted the same, also as a statement that was made before', async () => {
    const { db, name } = await seedTenant()
    const rename = Prisma.sql`update agents set name = ${name} where name = ${name}`
    expect(await db.$executeRaw(rename)).toBe(1)
    expect(await db.$transaction((tx) => tx.$executeRaw(rename))).toBe(1)
    expect(await db.$queryRaw(Prisma.sql`select name from agents`)).toEqual([{ name }])
  })

  it('is refused when it answers what is not read', async () => {
    const { db } = await seedTenant()
    await expect(db.$queryRaw`select 1.5::numeric as amount`).rejects.toThrow('Cast it.')
  })
})

describe('a connection that breaks between two statements', () => {
  it('ends its transaction and nothing else', async () => {
    const a = await seedTenant()
    const scope = { tenantId: a.tenantId, userId: null, shortRead: false }
    const connection = await pool.within(scope, () => pool.connect())
    const { rows } = await connection.query({ text: 'select pg_backend_pid() as pid' })
    await adminQuery(database.adminUrl, `select pg_terminate_backend(${rows[0].pid})`)
    // Only the pool itself listens now, as between two statements of the product; unheard, the error would fail the run.
    await expect.poll(() => connection.query({ text: 'select 1' }).then(String, String)).toMatch(/not queryable|terminat/)
    connection.release()
    expect(await a.db.conversation.count()).toBe(1)
  })
})

describe('shared connections', { tags: ['rule-4'] }, () => {
  it('keep neighbours apart around a read that is stopped for its length, and recover from a broken connection', async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const shared = new SharedConnections({
      ...{ connectionString: database.appUrl, size: 1, named: true },
      ...{ statementTimeoutMillis: 500, silence: new SilenceWatch(), silenceMillis: 1_500, connectionTimeoutMillis: 5_000 },
    })
    const titles = (tenantId: string) => shared.query({ text: 'select title from conversations' }, { tenantId, userId: null })
    const slow = shared.query({ text: 'select pg_sleep(30)' }, { tenantId: a.tenantId, userId: null })
    const behind = Promise.all([titles(a.tenantId), titles(b.tenantId), titles(a.tenantId)])
    await expect(slow).rejects.toMatchObject({ code: '57014' })
    expect((await behind).map(({ rows }) => rows)).toEqual([[{ title: a.name }], [{ title: b.name }], [{ title: a.name }]])

    const suicide = shared.query(
      { text: 'select pg_terminate_backend(pg_backend_pid())' },
      { tenantId: a.tenantId, userId: null },
    )
    await expect(suicide).rejects.toThrow()
    expect((await titles(b.tenantId)).rows).toEqual([{ title: b.name }])
    await shared.end()
  })
})

describe.each([
  { name: 'named statements', namedStatements: true, count: Math.min(2 * crowdStatements, 10_000) },
  { name: 'unnamed statements', namedStatements: false, count: Math.min(crowdStatements, 10_000) },
])('$count interleaved operations of 20 tenants, $name', { tags: ['rule-4'] }, ({ namedStatements, count }) => {
  it('never mix, with errors, rollbacks and timed-out transactions in between', async () => {
    const crowded = new TenantPool({ connectionString: database.appUrl, max: 3, shared: 2, namedStatements })
    const source = new TenantData(crowded)
    const tenants = await Promise.all(Array.from({ length: 20 }, () => seedTenant(source)))
    const mixed: string[] = []
    const operate = operationsOn(mixed)
    let next = 0
    const caller = async () => {
      for (let index = next++; index < count; index = next++) {
        const tenant = tenants[(index * 7) % tenants.length] as (typeof tenants)[number]
        await operate[index % operate.length]?.(tenant, index)
      }
    }
    await Promise.all(Array.from({ length: 40 }, caller))
    expect(mixed).toEqual([])
    await source.close()
  }, 120_000)
})

type Seeded = Awaited<ReturnType<typeof seedTenant>>

/** Each operation notes in `mixed` whatever it saw that is not its own tenant's. */
function operationsOn(mixed: string[]): ((tenant: Seeded, index: number) => Promise<void>)[] {
  const check = (tenant: Seeded, titles: (string | null | undefined)[]) => {
    for (const title of titles) if (title !== tenant.name) mixed.push(`${tenant.name} saw ${title}`)
  }
  return [
    async (tenant) => check(tenant, [(await tenant.db.conversation.findUnique({ where: tenant.key }))?.title]),
    async (tenant) =>
      check(
        tenant,
        (await tenant.db.conversation.findMany()).map((row) => row.title),
      ),
    async (tenant) => {
      const [row] = await tenant.db.$queryRaw<{ tenant: string; title: string }[]>`
        select current_setting('app.current_tenant') as tenant, title from conversations`
      check(tenant, [row?.title, row?.tenant === tenant.tenantId ? tenant.name : row?.tenant])
    },
    async (tenant) => {
      const duplicate = { id: tenant.conversation.id, tenantId: tenant.tenantId, agentId: tenant.agent.id }
      await expect(tenant.db.conversation.create({ data: duplicate })).rejects.toMatchObject({ code: 'P2002' })
    },
    async (tenant, index) => {
      const rolledBack = tenant.db.$transaction(async (tx) => {
        await tx.conversation.updateMany({ data: { title: 'rolled back' } })
        if (index % 2 === 0) throw new Error('rolled back')
        await tx.$queryRaw`select 1 / 0`
      }, patient)
      await expect(rolledBack).rejects.toThrow()
    },
    async (tenant) => {
      const titles = await tenant.db.$transaction(
        async (tx) => (await tx.conversation.findMany()).map((row) => row.title),
        patient,
      )
      check(tenant, titles)
    },
    async (tenant, index) => {
      if (index % 49 !== 6) return
      const timedOut = tenant.db.$transaction((tx) => tx.$queryRaw`select pg_sleep(0.03)`.then(() => tx.agent.count()), {
        ...patient,
        timeout: 10,
      })
      await expect(timedOut).rejects.toThrow()
    },
  ]
}

const patient = { maxWait: 30_000, timeout: 30_000 }

async function backendOf(tx: Pick<TenantDb, '$queryRaw'>): Promise<number | undefined> {
  const [row] = await tx.$queryRaw<{ pid: number }[]>`select pg_backend_pid() as pid`
  return row?.pid
}

describe('a statement that answers before it is committed', () => {
  const rename = (db: TenantDb, id: string, title: string) =>
    db.$queryBeforeCommit<{ title: string }[]>`update conversations set title = ${title} where id = ${id}::uuid returning title`

  beforeAll(() =>
    adminQuery(
      database.adminUrl,
      `create function check_title() returns trigger language plpgsql as $$
      begin
        perform pg_sleep(0.2);
        if new.title = 'refused' then raise exception 'not this title'; end if;
        return null;
      end $$;
      create constraint trigger check_title after update on conversations deferrable initially deferred
        for each row when (new.title in ('slow', 'refused')) execute function check_title()`,
    ),
  )

  afterAll(() => adminQuery(database.adminUrl, 'drop function check_title cascade'))

  it.each([true, false])(
    'has its rows there while others do not see them yet, named statements or not: %s',
    async (namedStatements) => {
      const source = new TenantData(new TenantPool({ connectionString: database.appUrl, max: 2, namedStatements }))
      onTestFinished(() => source.close())
      const { db, conversation, key, name } = await seedTenant(source)
      for (const before of [name, 'slow']) {
        const { rows, committed } = await rename(db, conversation.id, 'slow')
        expect(rows).toEqual([{ title: 'slow' }])
        expect(await db.conversation.findUnique({ where: key })).toMatchObject({ title: before })
        await committed
        expect(await db.conversation.findUnique({ where: key })).toMatchObject({ title: 'slow' })
      }
    },
  )

  it('may come to nothing, and the connection goes on', async () => {
    const one = new TenantPool({ connectionString: database.appUrl, max: 1 })
    const source = new TenantData(one)
    onTestFinished(() => source.close())
    const { db, conversation, key, name } = await seedTenant(source)
    const { rows, committed } = await rename(db, conversation.id, 'refused')
    expect(rows).toEqual([{ title: 'refused' }])
    await expect(committed).rejects.toThrow('not this title')
    expect(await db.conversation.findUnique({ where: key })).toMatchObject({ title: name })
    await expect(db.$queryBeforeCommit`select 1 / 0`).rejects.toThrow('division by zero')
    expect((await rename(db, conversation.id, 'taken')).rows).toEqual([{ title: 'taken' }])
    expect(one.totalCount).toBe(1)
  })

  it('is behind the wall like any other', async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const { rows, committed } = await rename(a.db, b.conversation.id, 'mine')
    await committed
    expect(rows).toEqual([])
    expect(await b.db.conversation.findUnique({ where: b.key })).toMatchObject({ title: b.name })
  })

  it('may break with its connection before it is known whether it is stored', async () => {
    const one = new TenantPool({ connectionString: database.appUrl, max: 1 })
    const source = new TenantData(one)
    onTestFinished(() => source.close())
    const { db, conversation } = await seedTenant(source)
    const { committed } = await rename(db, conversation.id, 'slow')
    await adminQuery(database.adminUrl, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'`)
    const error = await committed.catch((reason: unknown) => reason)
    expect(isOutage(error)).toBe(true)
    await (await rename(db, conversation.id, 'again')).committed
  })
})
