import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { formatApiKey, newSecret, parseApiKey } from '../../src/domain/credential.ts'
import { newId, type TenantId } from '../../src/domain/ids.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import { watchCheckIns } from '../support/check-ins.ts'
import { ask } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { tenantTables } from './world.ts'

// What the scope of a statement may be, and what becomes of it: with the raw pool, and with what the product makes of it.
let story: Story
let acme: TenantStory
let globex: TenantStory
let admin: pg.Client
let tables: string[]

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
  admin = new pg.Client({ connectionString: story.database.adminUrl })
  await admin.connect()
  tables = await tenantTables(admin)
})

afterAll(async () => {
  await admin.end()
  await story.close()
})

const wallOf = (tenantId: string, shortRead = false) => ({ tenantId, userId: null, shortRead })
const whose = { text: "select coalesce(string_agg(distinct tenant_id::text, ' '), '') as seen from members" }

describe('a single connection', { tags: ['rule-4'] }, () => {
  it.each([
    { name: 'exclusive', shared: 0, shortRead: false, ends: ['cancel', 'terminate', 'refuse'] },
    // A read on a shared connection that broke is sent again.
    { name: 'shared', shared: 1, shortRead: true, ends: ['cancel', 'refuse'] },
  ])('that is $name keeps nothing of a statement that came to a bad end', async ({ shared, shortRead, ends }) => {
    const pool = new TenantPool({ connectionString: story.database.appUrl, max: 1, shared })
    const checkIns = watchCheckIns(pool)
    const outcomes = new Map<string, number>()
    for (let round = 0; round < 40; round++) {
      const [one, other] = round % 2 === 0 ? [acme, globex] : [globex, acme]
      const send = (tenant: TenantStory, text: string) =>
        pool.within(wallOf(tenant.tenant.id, shortRead), () => pool.query({ text }) as Promise<pg.QueryResult>)
      const end = ends[round % ends.length] ?? ''
      const sent = send(one, end === 'refuse' ? 'select 1 / 0' : `select pg_sleep(10), '${end}'`).then(
        () => 'answered',
        (error) => error.code,
      )
      const behind = shared > 0 ? [send(other, whose.text)] : []
      if (end !== 'refuse') await signal(`pg_${end}_backend`, end)
      const outcome = await sent
      // The statement fails a moment before the connection is known to be gone.
      if (end === 'terminate') await expect.poll(() => pool.totalCount, { interval: 2 }).toBe(0)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      for (const tenant of [other, one]) expect((await send(tenant, whose.text)).rows).toEqual([{ seen: tenant.tenant.id }])
      for (const answer of behind) expect((await answer).rows).toEqual([{ seen: other.tenant.id }])
    }
    await checkIns.stop()
    await pool.end()
    const codes: Record<string, string> = { cancel: '57014', terminate: '57P01', refuse: '22012' }
    expect([...outcomes.keys()].toSorted()).toEqual(ends.map((end) => codes[end]).toSorted())
    expect(checkIns.dirty).toEqual([])
    expect(checkIns.count).toBeGreaterThan(80)
  })

  /** Ends what sleeps under this name, as soon as it does. */
  async function signal(how: string, name: string): Promise<void> {
    for (;;) {
      const { rowCount } = await admin.query(
        `select ${how}(pid) from pg_stat_activity where usename = 'bulkhead_app' and state = 'active' and wait_event = 'PgSleep'
           and datname = current_database() and query like $1`,
        [`%${name}%`],
      )
      if (rowCount === 1) return
      await delay(2)
    }
  }
})

/** What a tenant is not: nothing that was set, nothing at all, and what no tenant could be called. */
const nobodies = ['', ' ', 'garbage', 'null', '*', '%', '0', "' or true --", "'::uuid or true--", '{}']

describe('a tenant that is', { tags: ['rule-5'] }, () => {
  const statements = (table: string) => [
    `select * from ${table}`,
    `select count(*) as seen from ${table} having count(*) > 0`,
    `delete from ${table} returning 1`,
  ]

  it('not set sees and changes nothing, in any table', async () => {
    const client = new pg.Client({ connectionString: story.database.appUrl })
    await client.connect()
    for (const table of tables) {
      for (const text of statements(table)) {
        const rows = await client.query(text).then(
          (result) => result.rows,
          (error) => error.code,
        )
        expect(rows === '42501' || rows, text).toEqual(rows === '42501' ? true : [])
      }
    }
    await client.end()
  })

  it.each([...nobodies, newId()])('%j sees and changes nothing, in any table', async (tenantId) => {
    const pool = new TenantPool({ connectionString: story.database.appUrl, max: 1, shared: 1 })
    for (const table of tables) {
      for (const text of statements(table)) {
        for (const shortRead of [false, true]) {
          const outcome = await pool
            .within(wallOf(tenantId, shortRead), () => pool.query({ text }) as Promise<pg.QueryResult>)
            .then(
              ({ rows }) => rows,
              ({ code }) => code,
            )
          // Nothing, or a refusal that says why: not a UUID (22P02), no grant (42501).
          expect([[], '22P02', '42501'], text).toContainEqual(outcome)
        }
      }
    }
    // Whatever that was, the next is served.
    const next = await pool.within(wallOf(acme.tenant.id), () => pool.query(whose) as Promise<pg.QueryResult>)
    expect(next.rows).toEqual([{ seen: acme.tenant.id }])
    await pool.end()
  })

  it.each([...nobodies, newId()])('%j finds nothing through the filter either', async (tenantId) => {
    const db = story.data.of({ tenantId, userId: null })
    for (const read of [() => db.conversation.findMany(), () => db.tenant.findMany(), () => db.apiKey.findMany()]) {
      const found = await read().catch(() => [])
      expect(found).toEqual([])
    }
  })

  it('claimed by a key and is none gets no further than any wrong key', async () => {
    const claim = parseApiKey(acme.keys.admin)
    if (claim?.kind !== 'tenant') throw new Error('It is no key of a tenant.')
    const claims = [newId(), '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', globex.tenant.id]
    const forged = claims.map((tenantId) => formatApiKey({ ...claim, tenantId: tenantId as TenantId }))
    const wrong = formatApiKey({ ...claim, secret: newSecret() })
    const garbage = nobodies.map((tenantId) => acme.keys.admin.replace(/^bh_[0-9a-f]+_/, `bh_${tenantId}_`))
    for (const key of [...forged, wrong, ...garbage]) expect(await story.authenticate(key), key).toBeNull()
  })
})

describe('background work', { tags: ['rule-14'] }, () => {
  it.each([...nobodies, newId()])('for the tenant %j is refused or finds nothing', async (nobody) => {
    await ask(acme.member)
    const db = story.data.of({ tenantId: nobody, userId: null })
    // A claim names its tenant twice: as the scope, and in the statement. Both must be the run's.
    const attempts = [
      () => claimRun(db, nobody as TenantId, newId()),
      () => claimRun(db, acme.tenant.id, newId()),
      () => claimRun(acme.member.db, nobody as TenantId, newId()),
      () => claimRun(globex.member.db, acme.tenant.id, newId()),
    ]
    for (const attempt of attempts) expect(await attempt().catch(() => null)).toBeNull()
    expect(await acme.member.db.run.count({ where: { status: 'RUNNING' } })).toBe(0)
  })
})
