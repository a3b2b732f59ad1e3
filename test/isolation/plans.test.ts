// @module-tag rule-5
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData, type TenantDb } from '../../src/data/tenant-scope.ts'
import { agentNamed } from '../../src/domain/agent.ts'
import { agentVersionStats } from '../../src/domain/agent-version-stats.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { termsAt } from '../../src/domain/pricing.ts'
import { quotaSourceOf } from '../../src/domain/quota-terms.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import { superseded } from '../../src/domain/run-ending.ts'
import { apiKeyRevoked, requestStop } from '../../src/domain/run-stop.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { closeTurn, readToolCalls, startToolCalls, undecided } from '../../src/domain/tool-ledger.ts'
import { recordUsage } from '../../src/domain/usage.ts'
import { reportUsage } from '../../src/domain/usage-report.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { tenantParty } from './rows.ts'
import { seed, tenantTables } from './world.ts'

/** Keeps the statements that it sends. */
class RecordingPool extends TenantPool {
  readonly sent: pg.QueryConfig[] = []

  override async query(config: pg.QueryConfig): Promise<never> {
    this.sent.push(config)
    return super.query(config)
  }
}

type Plan = { 'Node Type': string; 'Relation Name'?: string; 'Index Cond'?: string; Plans?: Plan[] }

const party = tenantParty('planned')
const scope = { ...party.wall, shortRead: false }
const id = newId()
const free = { rates: { inputNanos: 0n, cachedInputNanos: 0n, outputNanos: 0n }, currency: 'USD' }
const noUsage = { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0, reasoningTokens: 0, estimated: true }
const callMade = {
  key: { tenantId: party.wall.tenantId, runId: id, turn: 0, attempt: 1 },
  ...{ usage: noUsage, terms: free, entry: { now: 0, fed: true } },
}
const claim = { tenantId: party.wall.tenantId, id, epoch: 1, conversationId: id }
const newest = [{ createdAt: 'desc' as const }, { id: 'desc' as const }]

const quotaOf = (db: TenantDb) => quotaSourceOf(db, tenantIdOf(party.wall.tenantId))

/** What the product reads, as it does in src/domain. */
const reads: { table: string; reading: string; read: (db: TenantDb) => Promise<unknown> }[] = [
  { table: 'tenants', reading: 'the own one', read: (db) => db.tenant.findFirst({ where: { id: party.wall.tenantId } }) },
  { table: 'tenants', reading: 'all there are', read: (db) => db.tenant.findMany() },
  { table: 'members', reading: 'all there are', read: (db) => db.member.findMany() },
  { table: 'api_keys', reading: 'one', read: (db) => db.apiKey.findFirst({ where: { id } }) },
  {
    table: 'api_keys',
    reading: 'the list',
    read: (db) => db.apiKey.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] }),
  },
  { table: 'agents', reading: 'one', read: (db) => db.agent.findFirst({ where: { id } }) },
  { table: 'agents', reading: 'the list', read: (db) => db.agent.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] }) },
  { table: 'agent_configs', reading: 'one', read: (db) => db.agentConfig.findFirst({ where: { id } }) },
  {
    table: 'agent_configs',
    reading: 'the active',
    read: (db) => db.agentConfig.findMany({ where: { OR: [{ agentId: id, version: 1 }] } }),
  },
  {
    table: 'agent_configs',
    reading: 'a page of versions',
    read: (db) => db.agentConfig.findMany({ where: { agentId: id }, orderBy: newest, take: 21 }),
  },
  { table: 'agents', reading: 'the default one', read: (db) => db.agent.findFirst({ where: agentNamed(null) }) },
  { table: 'conversations', reading: 'one', read: (db) => db.conversation.findFirst({ where: { id } }) },
  { table: 'conversations', reading: 'a page', read: (db) => db.conversation.findMany({ orderBy: newest, take: 21 }) },
  {
    table: 'conversations',
    reading: "a page of a user's",
    read: (db) => db.conversation.findMany({ where: { userId: 'ann' }, orderBy: newest, take: 21 }),
  },
  { table: 'messages', reading: 'a batch', read: (db) => db.message.findMany({ where: { id: { in: [id, newId()] } } }) },
  {
    table: 'messages',
    reading: 'a page',
    read: (db) => db.message.findMany({ where: { conversationId: id }, orderBy: newest, take: 21 }),
  },
  { table: 'messages', reading: 'those of runs', read: (db) => db.message.findMany({ where: { runId: { in: [id, newId()] } } }) },
  { table: 'runs', reading: 'one', read: (db) => db.run.findFirst({ where: { id } }) },
  { table: 'runs', reading: 'a page', read: (db) => db.run.findMany({ orderBy: newest, take: 21 }) },
  {
    table: 'runs',
    reading: "a conversation's",
    read: (db) =>
      db.run.findMany({ where: { conversationId: id, status: { in: ['COMPLETED', 'FAILED'] } }, orderBy: newest, take: 50 }),
  },
  {
    table: 'runs',
    reading: 'the waiting',
    read: (db) => db.run.findMany({ where: { status: 'QUEUED' }, orderBy: { queuedAt: 'asc' } }),
  },
  { table: 'runs', reading: 'the next to claim', read: (db) => claimRun(db, tenantIdOf(party.wall.tenantId), newId()) },
  {
    table: 'runs',
    reading: 'those to stop',
    read: (db) => requestStop(db, { apiKeyId: id }, apiKeyRevoked, new Date()),
  },
  {
    table: 'runs',
    reading: 'whether a conversation is busy',
    read: (db) => db.run.findFirst({ where: { conversationId: id, finishedAt: null }, select: { id: true } }),
  },
  {
    table: 'runs',
    reading: "an agent's, by version",
    read: (db) => {
      const staff = { db, tenant: { id: party.wall.tenantId }, actor: { role: 'ADMIN' } } as unknown as Scope
      const range = { from: new Date('2025-12-31T10:07:00Z'), to: new Date('2026-01-02T00:01:00Z') }
      return agentVersionStats(staff, { agentId: String(party.rows['Agent']?.['id']), range })
    },
  },
  {
    table: 'runs',
    reading: 'those to interrupt',
    read: (db) => requestStop(db, { conversationId: id, createdAt: { lt: new Date() } }, superseded, new Date()),
  },
  { table: 'tool_calls', reading: "a turn's", read: (db) => readToolCalls(db, id, 0) },
  {
    table: 'tool_calls',
    reading: 'those that wait for a person',
    read: (db) => db.toolCall.findMany({ where: undecided, orderBy: [{ createdAt: 'asc' }, { id: 'asc' }], take: 21 }),
  },
  { table: 'tool_calls', reading: 'those to begin', read: (db) => startToolCalls(db, claim, [id, newId()], 0) },
  {
    table: 'tool_calls',
    reading: 'those that are over',
    read: (db) =>
      closeTurn(db, claim, [], [{ id, status: 'COMPLETED', result: '', expiresAt: null, finishedAt: new Date() }], null),
  },
  {
    table: 'usage_records',
    reading: 'sums of runs',
    read: (db) => db.usageRecord.groupBy({ by: ['runId'], where: { runId: { in: [id] } }, _sum: { costNanos: true } }),
  },
  {
    table: 'usage_records',
    reading: 'what was spent lately',
    read: (db) => db.usageRecord.aggregate({ where: { createdAt: { gte: new Date(0) } }, _sum: { costNanos: true } }),
  },
  {
    table: 'usage_records',
    reading: 'a report',
    read: (db) => {
      const staff = { db, tenant: { id: party.wall.tenantId }, actor: { role: 'ADMIN' } } as unknown as Scope
      const range = { from: new Date(Date.now() - 86_400_000), to: new Date() }
      return reportUsage({ kind: 'tenant', scope: staff, expiresAt: null }, { range, groupBy: ['DAY', 'USER'] })
    },
  },
  {
    table: 'model_call_attempts',
    reading: "a run's",
    read: (db) =>
      db.modelCallAttempt.findMany({ where: { runId: id, attempt: { lte: 1 } }, include: { price: true, tenantPrice: true } }),
  },
  {
    table: 'model_call_attempts',
    reading: 'the one to enter',
    read: (db) => recordUsage(db, callMade),
  },
  {
    table: 'usage_rollups',
    reading: 'a report',
    read: (db) => {
      const staff = { db, tenant: { id: party.wall.tenantId }, actor: { role: 'ADMIN' } } as unknown as Scope
      const range = { from: new Date('2025-12-31T10:07:00Z'), to: new Date('2026-01-02T00:01:00Z') }
      return reportUsage({ kind: 'tenant', scope: staff, expiresAt: null }, { range, groupBy: ['DAY', 'MODEL'] })
    },
  },
  {
    table: 'tenant_prices',
    reading: 'what a call costs',
    read: (db) => termsAt(db, tenantIdOf(party.wall.tenantId), 'm', Date.now()),
  },
  {
    table: 'credits',
    reading: "a month's",
    read: (db) => db.credit.findMany({ where: { createdAt: { gte: new Date(0), lt: new Date() } } }),
  },
  {
    table: 'idempotency_keys',
    reading: 'one',
    read: (db) => db.idempotencyKey.findFirst({ where: { actor: 'a', mutation: 'm', key: 'k' } }),
  },
  { table: 'audit_events', reading: 'a page', read: (db) => db.auditEvent.findMany({ orderBy: newest, take: 21 }) },
  { table: 'data_keys', reading: 'the newest', read: (db) => db.dataKey.findFirst({ orderBy: { createdAt: 'desc' } }) },
  { table: 'secrets', reading: 'one', read: (db) => db.secret.findFirst({ where: { name: 's' } }) },
  { table: 'user_pseudonyms', reading: 'one', read: (db) => db.userPseudonym.findFirst({ where: { userId: 'ann' } }) },
  { table: 'tenant_exports', reading: 'one', read: (db) => db.tenantExport.findFirst({ where: { id } }) },
  { table: 'notifications', reading: 'a page', read: (db) => db.notification.findMany({ orderBy: newest, take: 21 }) },
  {
    table: 'notifications',
    reading: 'the same one',
    read: (db) => db.notification.findFirst({ where: { dedupeKey: 'MONTHLY_TOKENS/2026-11/80' } }),
  },
  { table: 'tools', reading: 'all', read: (db) => db.tool.findMany({ orderBy: newest }) },
  { table: 'tools', reading: 'one', read: (db) => db.tool.findFirst({ where: { name: 't' } }) },
  { table: 'webhooks', reading: 'all', read: (db) => db.webhook.findMany({ orderBy: newest }) },
  {
    table: 'webhooks',
    reading: 'those that want usage',
    read: (db) => recordUsage(db, callMade),
  },
  { table: 'quota_overrides', reading: 'what may be used', read: (db) => quotaOf(db).terms(0) },
  { table: 'usage_records', reading: 'what was used', read: async (db) => quotaOf(db).counts(await quotaOf(db).terms(0), 0) },
  { table: 'outbox', reading: 'one', read: (db) => db.outboxEntry.findFirst({ where: { id } }) },
]

let database: TestDatabase
let admin: pg.Client
let tables: string[]

beforeAll(async () => {
  database = await createTestDatabase()
  admin = new pg.Client({ connectionString: database.adminUrl })
  await admin.connect()
  await seed(database.adminUrl, [party])
  tables = await tenantTables(admin)
  await populate()
})

afterAll(async () => {
  await admin.end()
  await database.drop()
})

/** Of these a tenant cannot have copies: one override of a limit, one version of a price, one first part of a quarter. */
const onceEach = new Set(['quota_overrides', 'tenant_prices', 'usage_rollups'])

/** 2,000 rows more in each table, of 100 tenants: so many that Postgres itself would rather use an index. */
async function populate(): Promise<void> {
  const columns = ['name', 'email', 'slug', 'key', 'dedupe_key', 'user_id'].map((column) => `'${column}', md5(n::text)`)
  const ids = ['agent_id', 'conversation_id', 'run_id'].map((column) => `'${column}', gen_random_uuid()`)
  const copies = tables.map((table) => {
    const rowId = `'id', gen_random_uuid()`
    const tenant = onceEach.has(table) ? 'n' : 'n % 100'
    const changes = [rowId, `'tenant_id', md5((${tenant})::text)::uuid`, ...columns, ...ids].join(', ')
    return `insert into ${table} select r.* from ${table} t, generate_series(1, 2000) n,
      lateral jsonb_populate_record(t, jsonb_build_object(${changes})) r; analyze ${table};`
  })
  await admin.query(`set session_replication_role = replica; ${copies.join('\n')}`)
}

it('every tenant table is read here', () => {
  expect([...new Set(reads.map(({ table }) => table))].toSorted()).toEqual(tables.toSorted())
})

// With the filter off, the policy alone must find the index; with both, neither may be in the other's way.
describe.each([
  { walls: 'row-level security alone', filter: false },
  { walls: 'both walls', filter: true },
])('$walls', ({ filter }) => {
  let pool: RecordingPool
  let data: TenantData

  beforeAll(() => {
    pool = new RecordingPool({ connectionString: database.appUrl, max: 1, shared: 0 })
    data = new TenantData(pool, { filter })
  })

  afterAll(() => data.close())

  it.each(reads)('$table, $reading: found by an index on the tenant', async ({ table, read }) => {
    pool.sent.length = 0
    await read(data.of(party.wall))
    const scans = []
    for (const statement of [...pool.sent]) scans.push(...(await scansOf(pool, statement)))
    expect(scans.map((scan) => scan.table)).toContain(table)
    expect(scans.filter((scan) => !scan.condition.includes(`(${scan.table === 'tenants' ? 'id' : 'tenant_id'} = `))).toEqual([])
  })
})

/** Each scan of a tenant table in the statement's plan, as the application gets it, and the index condition it works by. */
async function scansOf(pool: TenantPool, { text, values }: pg.QueryConfig): Promise<{ table: string; condition: string }[]> {
  const explain = { text: `explain (format json) ${text}`, values, rowMode: 'array' }
  const { rows }: pg.QueryArrayResult<[[{ Plan: Plan }]]> = await pool.within(scope, () => pool.query(explain))
  const plans = rows.flatMap(([[{ Plan }]]) => nodesOf(Plan))
  return plans.flatMap((plan) => {
    const table = plan['Relation Name']
    // What is written is found by the scans below, if it was there before.
    if (table === undefined || !tables.includes(table) || plan['Node Type'] === 'ModifyTable') return []
    // A bitmap scan's condition is with the index scan below it.
    return [
      {
        table,
        condition: nodesOf(plan)
          .map((node) => node['Index Cond'] ?? '')
          .join(' '),
      },
    ]
  })
}

function nodesOf(plan: Plan): Plan[] {
  return [plan, ...(plan.Plans ?? []).flatMap(nodesOf)]
}
