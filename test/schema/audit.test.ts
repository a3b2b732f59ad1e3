import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { schema } from '../../src/schema/index.ts'
import { auditEventsQuery } from '../operations/audit.ts'
import type { Api } from '../support/api.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import type { TenantStory } from '../support/story.ts'

let platform: TestPlatform
let admin: pg.Client
let operator: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  admin = new pg.Client({ connectionString: platform.story.database.adminUrl })
  await admin.connect()
  operator = platform.api(await operatorKey(platform.story))
})

afterAll(async () => {
  await admin.end()
  await platform.stop()
})

type Example = {
  /** What changes something of a tenant that was just made. */
  input: (tenant: TenantStory) => object | Promise<object>
  /** Why it leaves no audit event. */
  silent?: string
}

const tenantId = ({ tenant }: TenantStory) => encodeId('Tenant', tenant.id)

/** A call of each mutation of admins and of operators. */
const examples: Readonly<Record<string, Example>> = {
  createApiKey: { input: () => ({ name: 'A key', role: 'MEMBER', idempotencyKey: 'once' }) },
  revokeApiKey: { input: ({ member }) => ({ apiKeyId: encodeId('ApiKey', member.actor.id) }) },
  updateAgentConfig: { input: () => ({ systemPrompt: 'Say nothing.', idempotencyKey: 'once' }) },
  publishAgentConfig: {
    async input({ keys, admin: { db } }) {
      await call(platform.api(keys.admin), 'updateAgentConfig', { systemPrompt: 'Say nothing.', publish: false })
      const draft = await db.agentConfig.findFirstOrThrow({ where: { status: 'DRAFT' } })
      return { agentConfigId: encodeId('AgentConfig', draft.id), canaryPercent: 10 }
    },
  },
  rollbackAgentConfig: {
    async input({ keys }) {
      await call(platform.api(keys.admin), 'updateAgentConfig', { systemPrompt: 'Say nothing.' })
      return { version: 1 }
    },
  },
  createAgent: { input: () => ({ name: 'Sales', systemPrompt: 'Say nothing.', idempotencyKey: 'once' }) },
  renameAgent: { input: ({ tenant }) => ({ agentId: encodeId('Agent', tenant.defaultAgentId ?? ''), name: 'Help desk' }) },
  archiveAgent: { input: async (tenant) => ({ agentId: await secondAgent(tenant) }) },
  setDefaultAgent: { input: async (tenant) => ({ agentId: await secondAgent(tenant) }) },
  setSecret: { input: () => ({ name: 'token', value: 'a value that nobody sees' }) },
  deleteSecret: {
    async input({ keys, admin: { db } }) {
      await call(platform.api(keys.admin), 'setSecret', { name: 'token', value: 'a value that nobody sees' })
      return { secretId: encodeId('Secret', (await db.secret.findFirstOrThrow()).id) }
    },
  },
  createTool: {
    input: () => ({
      ...{ name: 'orders', description: 'Orders.', idempotencyKey: 'once' },
      http: { url: 'https://api.example.com/a?token=a%20value' },
    }),
  },
  updateTool: { input: async (tenant) => ({ toolId: await defineTool(tenant), description: 'Other orders.' }) },
  deleteTool: { input: async (tenant) => ({ toolId: await defineTool(tenant) }) },
  createWebhook: { input: () => ({ url: 'https://hooks.example.com/a?token=a%20value', idempotencyKey: 'once' }) },
  deleteWebhook: {
    async input({ keys, admin: { db } }) {
      await call(platform.api(keys.admin), 'createWebhook', { url: 'https://hooks.example.com/' })
      return { webhookId: encodeId('Webhook', (await db.webhook.findFirstOrThrow()).id) }
    },
  },
  exportTenant: { input: () => ({}) },
  createTenant: { input: () => ({ name: 'Initech', plan: 'FREE', idempotencyKey: 'once' }) },
  suspendTenant: { input: (tenant) => ({ tenantId: tenantId(tenant), reason: 'They did not pay.' }) },
  resumeTenant: {
    async input(tenant) {
      await call(operator, 'suspendTenant', { tenantId: tenantId(tenant), reason: 'They did not pay.' })
      return { tenantId: tenantId(tenant) }
    },
  },
  updateTenantSettings: { input: () => ({ timeZone: 'Asia/Kathmandu', quotaThresholds: [50] }) },
  changePlan: { input: (tenant) => ({ tenantId: tenantId(tenant), plan: 'FREE', reason: 'They asked for it.' }) },
  setQuotaOverride: {
    input: (tenant) => ({ tenantId: tenantId(tenant), limit: 'MESSAGES_PER_DAY', max: 7, reason: 'A trial.' }),
  },
  clearQuotaOverride: {
    async input(tenant) {
      const override = { tenantId: tenantId(tenant), limit: 'MESSAGES_PER_DAY' }
      await call(operator, 'setQuotaOverride', { ...override, max: 7, reason: 'A trial.' })
      return { ...override, reason: 'The trial is over.' }
    },
  },
  setPrice: {
    input: () => ({ model: 'gpt-4o', inputNanos: 5_000, outputNanos: 20_000 }),
    silent: 'It is done to no tenant. The price list itself says who did it, and is never changed.',
  },
  setTenantPrice: {
    input: (tenant) => ({ tenantId: tenantId(tenant), model: '*', marginBasisPoints: 1_500, reason: 'The contract.' }),
  },
  grantCredit: {
    input: (tenant) => ({
      ...{ tenantId: tenantId(tenant), amountMicros: 5_000_000, reason: 'An outage.' },
      idempotencyKey: `credit-${tenant.tenant.id}`,
    }),
  },
  correctUsage: {
    async input(tenant) {
      const usageRecordId = await enterCall(tenant)
      return { tenantId: tenantId(tenant), usageRecordId, outputTokens: 1, reason: 'It was cut short.', idempotencyKey: 'once' }
    },
  },
  eraseTenant: {
    input: (tenant) => ({ tenantId: tenantId(tenant), confirmName: tenant.tenant.name }),
    silent: 'The audit log is erased with the rest, and the certificate stays.',
  },
}

async function secondAgent({ keys, admin: { db } }: TenantStory): Promise<string> {
  await call(platform.api(keys.admin), 'createAgent', { name: 'Second' })
  return encodeId('Agent', (await db.agent.findFirstOrThrow({ where: { name: 'Second' } })).id)
}

async function defineTool({ keys, admin: { db } }: TenantStory): Promise<string> {
  const http = { url: 'https://api.example.com/orders' }
  await call(platform.api(keys.admin), 'createTool', { name: 'orders', description: 'Orders.', http })
  return encodeId('Tool', (await db.tool.findFirstOrThrow()).id)
}

/** A model call in the tenant's ledger. Answers its id. */
async function enterCall({ tenant }: TenantStory): Promise<string> {
  const id = newId()
  await admin.query(
    `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
       cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id)
     select $1, $2, $1, $1, $3, 1, 0, 0, 1, 'm', 1, 0, 2, 0, false, 1, 'USD', id from prices limit 1`,
    [id, tenant.id, tenant.defaultAgentId],
  )
  return encodeId('UsageRecord', id)
}

type Access = Partial<Record<'admin' | 'operator' | 'member' | 'endUser', boolean>>

/** The mutations that change how a tenant is set up, as their declared access says. */
const administrative = Object.values(schema.getMutationType()?.getFields() ?? {}).flatMap(({ name, extensions }) => {
  const { authScopes } = (extensions as { pothosOptions: { authScopes: Access } }).pothosOptions
  return authScopes.admin || authScopes.operator ? [{ name, byOperator: authScopes.operator === true }] : []
})

async function call(api: Api, name: string, input: object) {
  const VerbNoun = name.charAt(0).toUpperCase() + name.slice(1)
  const document = `mutation ($input: ${VerbNoun}Input!) { result: ${name}(input: $input) { __typename ... on Problem { message } } }`
  const { result } = await api.client.data<{ result: object }>(document, { input })
  return result
}

type Row = { id: string; action: string; actor_kind: string; actor_name: string }

async function events(): Promise<Row[]> {
  return (await admin.query('select id, action, actor_kind, actor_name, details from audit_events order by created_at, id')).rows
}

/** What is so already is not changed, and not noted. */
const idempotentByNature = new Set([
  'revokeApiKey',
  'publishAgentConfig',
  'rollbackAgentConfig',
  'renameAgent',
  'archiveAgent',
  'setDefaultAgent',
])

describe('a mutation of admins or operators', () => {
  it('is known by its declared access', () => {
    expect(administrative).toEqual(
      expect.arrayContaining([
        { name: 'revokeApiKey', byOperator: false },
        { name: 'createTenant', byOperator: true },
      ]),
    )
    expect(administrative.map(({ name }) => name)).not.toContain('sendMessage')
    expect(Object.keys(examples).filter((name) => !administrative.some((mutation) => mutation.name === name))).toEqual([])
  })

  it.each(administrative)('$name writes one audit event, and none when it is repeated', async ({ name, byOperator }) => {
    const example = examples[name]
    if (!example) throw new Error(`Give ${name} an example in this file.`)
    const tenant = await platform.story.tenant()
    const api = byOperator ? operator : platform.api(tenant.keys.admin)
    const input = await example.input(tenant)
    const before = new Set((await events()).map(({ id }) => id))
    const added = async () => (await events()).filter(({ id }) => !before.has(id))

    const done = { __typename: `${name.charAt(0).toUpperCase()}${name.slice(1)}Payload` }
    expect(await call(api, name, input)).toEqual(done)
    const written = await added()
    const actor = byOperator ? { actor_kind: 'OPERATOR', actor_name: 'Olga' } : { actor_kind: 'API_KEY', actor_name: 'Ada' }
    expect(written).toEqual(example.silent ? [] : [expect.objectContaining({ action: name, ...actor })])
    expect(JSON.stringify(written)).not.toMatch(/bh_|Say nothing|a value that nobody sees|whsec_|token=/)

    if (!('idempotencyKey' in input) && !idempotentByNature.has(name) && !byOperator) return
    expect(await call(api, name, input)).toEqual(done)
    expect(await added()).toEqual(written)
  })

  it('that is refused writes none', async () => {
    const before = await events()
    const api = platform.api(platform.acme.keys.admin)
    expect(await call(api, 'revokeApiKey', { apiKeyId: 'nonsense' })).toMatchObject({ __typename: 'NotFound' })
    expect(await call(api, 'createApiKey', { name: '', role: 'MEMBER' })).toMatchObject({ __typename: 'ValidationProblem' })
    expect(await call(platform.api(platform.acme.keys.member), 'updateAgentConfig', { temperature: 1 })).toMatchObject({
      __typename: 'Forbidden',
    })
    expect(await call(operator, 'createTenant', { name: platform.acme.tenant.name, plan: 'FREE' })).toMatchObject({
      __typename: 'Conflict',
    })
    expect(await call(operator, 'suspendTenant', { tenantId: 'nonsense', reason: 'x' })).toMatchObject({ __typename: 'NotFound' })
    expect(await events()).toEqual(before)
  })
})

describe('auditEvents', () => {
  it('tells admins who did what to what, newest first, a page at a time', async () => {
    const tenant = await platform.story.tenant()
    const api = platform.api(tenant.keys.admin)
    await call(api, 'updateAgentConfig', { temperature: 1, model: 'gpt-4o' })
    await call(api, 'revokeApiKey', { apiKeyId: encodeId('ApiKey', tenant.member.actor.id) })
    const first = (await api.data(auditEventsQuery, { first: 2 })).auditEvents
    expect(first.edges.map(({ node }) => node)).toMatchObject([
      {
        action: 'revokeApiKey',
        actorKind: 'API_KEY',
        actorName: 'Ada',
        actorId: encodeId('ApiKey', tenant.admin.actor.id),
        subject: 'ApiKey',
        subjectId: encodeId('ApiKey', tenant.member.actor.id),
        details: {},
      },
      {
        action: 'updateAgentConfig',
        subject: 'AgentConfig',
        details: { fields: ['model', 'temperature'], published: true, version: 2 },
      },
    ])
    expect(first.pageInfo.hasNextPage).toBe(true)
    const rest = (await api.data(auditEventsQuery, { after: first.pageInfo.endCursor })).auditEvents
    expect(rest.edges.map(({ node }) => node.action)).toEqual(['createApiKey', 'createTenant'])
    expect(rest.edges[1]?.node).toMatchObject({ actorKind: 'SYSTEM', actorId: null, subjectId: tenantId(tenant) })
  })

  it('are found by what was done and when', async () => {
    const tenant = await platform.story.tenant()
    const api = platform.api(tenant.keys.admin)
    await call(api, 'updateAgentConfig', { temperature: 1 })
    const found = async (filter: object) =>
      (await api.data(auditEventsQuery, { filter })).auditEvents.edges.map(({ node }) => node)
    const [changed, key, made] = await found({})
    expect((await found({ action: 'createApiKey' })).map(({ action }) => action)).toEqual(['createApiKey'])
    expect(await found({ since: key?.createdAt })).toEqual([changed, key])
    expect(await found({ until: key?.createdAt })).toEqual([made])
    expect(await found({ action: 'createApiKey', until: key?.createdAt })).toEqual([])
  })

  it.each([[{ action: 'a\0' }], [{ action: 'x'.repeat(101) }], [{ since: '0000-12-31T23:59:59Z' }]])(
    'are not looked for by %j',
    async (filter) => {
      const { errors } = await platform.api(platform.acme.keys.admin).ask(auditEventsQuery, { filter })
      expect(errors?.[0]?.extensions?.['code']).toBe('BAD_USER_INPUT')
    },
  )

  it.each(['0001-01-01T00:00:00Z', '9999-12-31T23:59:59.999Z'])('may be looked for at %s', async (time) => {
    const { data } = await platform.api(platform.acme.keys.admin).ask(auditEventsQuery, { filter: { since: time, until: time } })
    expect(data?.auditEvents.edges).toEqual([])
  })

  it.each(['member', 'endUser'] as const)('are not for a %s', async (role) => {
    const { errors } = await platform.api(platform.acme.keys[role]).ask(auditEventsQuery, { first: 1 })
    expect(errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
  })
})
