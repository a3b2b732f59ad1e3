// @module-tag rule-1
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

// What Postgres itself holds, whatever the application sends: raw SQL as each role, with nothing in between.
let database: TestDatabase
let admin: pg.Client
let app: pg.Client
let platform: pg.Client

beforeAll(async () => {
  database = await createTestDatabase()
  const connect = async (connectionString: string) => {
    const client = new pg.Client({ connectionString })
    await client.connect()
    return client
  }
  admin = await connect(database.adminUrl)
  app = await connect(database.appUrl)
  platform = await connect(database.platformUrl)
})

afterAll(async () => {
  await Promise.all([admin.end(), app.end(), platform.end()])
  await database.drop()
})

type Setting = { tenant?: string; user?: string }

/** Runs statements in one transaction with the settings, and answers the last one's rows. It is rolled back unless `commit`. */
async function within(
  client: pg.Client,
  { tenant = '', user = '' }: Setting,
  statements: string[],
  end = 'rollback',
): Promise<unknown[]> {
  await client.query('begin')
  try {
    await client.query(`select set_config('app.current_tenant', $1, true), set_config('app.current_user', $2, true)`, [
      tenant,
      user,
    ])
    let rows: unknown[] = []
    for (const statement of statements) {
      const result = await client.query(statement)
      rows = result.command === 'SELECT' ? result.rows : [result.rowCount]
    }
    return rows
  } finally {
    await client.query(end)
  }
}

const tenantTables = [
  'members',
  'api_keys',
  'agents',
  'agent_configs',
  'conversations',
  'messages',
  'runs',
  'usage_records',
  'idempotency_keys',
]

/** A tenant with one row in every table; its conversation, run and message belong to `ann`. */
async function seedTenant(): Promise<string> {
  const tenant = newId()
  const [agent, conversation, run] = [newId(), newId(), newId()]
  await platform.query(`insert into tenants (id, name, plan) values ($1, $2, 'FREE')`, [tenant, `tenant ${tenant}`])
  await within(
    app,
    { tenant },
    [
      `insert into members (id, tenant_id, name, email, role) values ('${newId()}', '${tenant}', 'Ada', 'ada@example.com', 'ADMIN')`,
      `insert into api_keys (id, tenant_id, name, role, secret_hash, pepper_version) values ('${newId()}', '${tenant}', 'key', 'ADMIN', '', 1)`,
      `insert into agents (id, tenant_id, slug, name, active_version) values ('${agent}', '${tenant}', 'main', 'Main', 1)`,
      `insert into agent_configs (id, tenant_id, agent_id, version, status, system_prompt, model, temperature, max_output_tokens, max_turns, branding)
       values ('${newId()}', '${tenant}', '${agent}', 1, 'PUBLISHED', 'prompt', 'm', 1, 1, 1, '{}'), ('${newId()}', '${tenant}', '${agent}', 2, 'DRAFT', 'prompt', 'm', 1, 1, 1, '{}')`,
      `insert into conversations (id, tenant_id, agent_id, user_id) values ('${conversation}', '${tenant}', '${agent}', 'ann')`,
      `insert into runs (id, tenant_id, conversation_id, agent_id, user_id, config_version, model) values ('${run}', '${tenant}', '${conversation}', '${agent}', 'ann', 1, 'm')`,
      `insert into messages (id, tenant_id, conversation_id, run_id, user_id, role, content, tokens_used)
       values ('${newId()}', '${tenant}', '${conversation}', '${run}', 'ann', 'USER', 'secret', 1)`,
      `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
         cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency)
       values ('${newId()}', '${tenant}', '${conversation}', '${run}', '${agent}', 1, 1, 1, 1, 'm', 1, 0, 1, 0, false, 1, 'USD')`,
      `insert into idempotency_keys (tenant_id, actor, mutation, key, input_hash, result_id) values ('${tenant}', 'a', 'm', 'k', '', '${run}')`,
    ],
    'commit',
  )
  return tenant
}

const countOf = async (table: string, tenant: string) =>
  (await admin.query(`select count(*)::int as n from ${table} where tenant_id = $1`, [tenant])).rows[0].n

describe.each(tenantTables)('%s', (table) => {
  it('shows a tenant its own rows, and without a tenant none', { tags: ['rule-5'] }, async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const owners = `select distinct tenant_id as id from ${table}`
    expect(await within(app, { tenant: a }, [owners])).toEqual([{ id: a }])
    expect(await within(app, { tenant: b }, [owners])).toEqual([{ id: b }])
    expect(await within(app, {}, [owners])).toEqual([])
    expect((await app.query(owners)).rows).toEqual([])
    await expect(within(app, { tenant: 'garbage' }, [owners])).rejects.toMatchObject({ code: '22P02' })
  })

  it('cannot be moved to another tenant, truncated, or written for one', { tags: ['rule-11', 'rule-2'] }, async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const refused = { code: '42501' }
    await expect(within(app, { tenant: a }, [`update ${table} set tenant_id = '${b}'`])).rejects.toMatchObject(refused)
    await expect(within(app, { tenant: a }, [`truncate ${table} cascade`])).rejects.toMatchObject(refused)
    const copy = `insert into ${table} select (jsonb_populate_record(t, '{"tenant_id": "${b}"}')).* from ${table} t`
    await expect(within(app, { tenant: a }, [copy])).rejects.toMatchObject({
      message: expect.stringContaining('row-level security'),
    })
  })

  it('is erased for one tenant, and only by the eraser', { tags: ['roles'] }, async () => {
    const [a, b] = [await seedTenant(), await seedTenant()]
    const kept = await countOf(table, b)
    // What refers to it goes first.
    const order = [
      'messages',
      'runs',
      'conversations',
      'agent_configs',
      'agents',
      'api_keys',
      'members',
      'usage_records',
      'idempotency_keys',
    ]
    const deletions = order.slice(0, order.indexOf(table) + 1).map((name) => `delete from ${name}`)
    await within(admin, { tenant: a }, ['set local role bulkhead_eraser', ...deletions], 'commit')
    expect([await countOf(table, a), await countOf(table, b)]).toEqual([0, kept])
    await expect(within(platform, { tenant: b }, [`delete from ${table}`])).rejects.toMatchObject({ code: '42501' })
    await expect(within(admin, {}, ['set local role bulkhead_eraser', `select * from ${table}`])).rejects.toMatchObject({
      code: '42501',
    })
  })
})

describe.each(['conversations', 'messages', 'runs'])('%s of an end user', { tags: ['rule-18'] }, (table) => {
  it('are walled off from other users of the tenant, and not from its staff', async () => {
    const tenant = await seedTenant()
    const count = `select count(*)::int as n from ${table}`
    expect(await within(app, { tenant, user: 'ann' }, [count])).toEqual([{ n: 1 }])
    expect(await within(app, { tenant, user: 'bob' }, [count])).toEqual([{ n: 0 }])
    expect(await within(app, { tenant }, [count])).toEqual([{ n: 1 }])
    const copy = `insert into ${table} select (jsonb_populate_record(t, '{"user_id": "bob", "id": "${newId()}"}')).* from ${table} t`
    await expect(within(app, { tenant, user: 'ann' }, [copy])).rejects.toMatchObject({
      message: expect.stringContaining('row-level security'),
    })
  })
})

it('shows a tenant its own row of tenants, and lets it change nothing there but the default agent', {
  tags: ['rule-19'],
}, async () => {
  const [a, b] = [await seedTenant(), await seedTenant()]
  expect(await within(app, { tenant: a }, ['select id from tenants'])).toEqual([{ id: a }])
  expect(await within(app, { tenant: a }, ['update tenants set default_agent_id = (select id from agents)'])).toEqual([1])
  expect(await within(app, { tenant: a }, [`update tenants set default_agent_id = null where id = '${b}'`])).toEqual([0])
  await expect(within(app, { tenant: a }, [`update tenants set plan = 'ENTERPRISE'`])).rejects.toMatchObject({ code: '42501' })
})

it('never changes a published configuration, and lets a draft become one', { tags: ['postgres', 'agent_configs'] }, async () => {
  const tenant = await seedTenant()
  const edit = `update agent_configs set system_prompt = 'other'`
  expect(await within(app, { tenant }, [`${edit} where status = 'PUBLISHED'`])).toEqual([0])
  expect(await within(app, { tenant }, [`${edit}, status = 'PUBLISHED' where status = 'DRAFT'`])).toEqual([1])
})

describe('a fenced tenant', () => {
  const write = `update agents set name = 'other'`
  const passed = (tenant: string) => `select current_setting('app.unfenced_tenant', true) = '${tenant}' as passed`

  it('is written to by nobody, also who has just written to another', async () => {
    const [tenant, other] = [await seedTenant(), await seedTenant()]
    await admin.query('update tenants set fenced_at = now() where id = $1', [tenant])
    const refused = { code: 'BH001' }
    await expect(within(app, { tenant }, [write])).rejects.toMatchObject(refused)
    const asTheOther = `select set_config('app.current_tenant', '${tenant}', true)`
    await expect(within(app, { tenant: other }, [write, asTheOther, write])).rejects.toMatchObject(refused)
    await admin.query('update tenants set fenced_at = null where id = $1', [tenant])
    expect(await within(app, { tenant }, [write])).toEqual([1])
  })

  it('is looked for once in each transaction that writes, and again after a savepoint took that back', async () => {
    const tenant = await seedTenant()
    expect(await within(app, { tenant }, [write, passed(tenant)], 'commit')).toEqual([{ passed: true }])
    expect(await within(app, { tenant }, [passed(tenant)])).toEqual([{ passed: false }])
    await expect(within(app, { tenant }, ['savepoint a', write, 'rollback to savepoint a', passed(tenant)])).resolves.toEqual([
      { passed: false },
    ])
  })
})

it('keeps the ledger as it was written, also when the conversation is deleted', async () => {
  const tenant = await seedTenant()
  for (const change of ['update usage_records set cost_nanos = 0', 'delete from usage_records'])
    await expect(within(app, { tenant }, [change])).rejects.toMatchObject({ code: '42501' })
  await within(app, { tenant, user: 'ann' }, ['delete from conversations'], 'commit')
  expect([await countOf('messages', tenant), await countOf('runs', tenant), await countOf('usage_records', tenant)]).toEqual([
    0, 0, 1,
  ])
})

it.each(['operator_keys', 'workers', '_prisma_migrations'])('keeps %s from tenants', { tags: ['rule-19'] }, async (table) => {
  await expect(within(app, { tenant: newId() }, [`select * from ${table}`])).rejects.toMatchObject({ code: '42501' })
})

it('lets the platform see that runs wait, and nothing of what they hold', { tags: ['roles'] }, async () => {
  const tenant = await seedTenant()
  const { rows } = await platform.query('select tenant_id, status from runs where tenant_id = $1', [tenant])
  expect(rows).toEqual([{ tenant_id: tenant, status: 'QUEUED' }])
  for (const content of ['select turns from runs', 'select content from messages', 'select system_prompt from agent_configs'])
    await expect(platform.query(content)).rejects.toMatchObject({ code: '42501' })
})
