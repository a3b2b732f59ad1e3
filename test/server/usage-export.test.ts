import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { parse } from 'csv-parse/sync'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { revokeApiKey } from '../../src/domain/api-key.ts'
import { newId } from '../../src/domain/ids.ts'
import { exportTenant } from '../../src/domain/tenant-export.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { until } from '../support/run-story.ts'
import type { TenantStory } from '../support/story.ts'

/** For a busy machine. */
const patience = { timeout: 20_000 }

let platform: TestPlatform
let admin: pg.Client
let operator: string
/** Tenants whose ledgers are too long for all buffers on the way. */
let large: TenantStory
let another: TenantStory

beforeAll(async () => {
  platform = await startTestPlatform({ limits: { exports: 3 } })
  admin = new pg.Client({ connectionString: platform.story.database.adminUrl })
  await admin.connect()
  operator = await operatorKey(platform.story)
  ;[large, another] = [await platform.story.tenant(), await platform.story.tenant()]
  for (const { tenant } of [large, another]) {
    await admin.query(
      `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model,
         input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
       select gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), $2, 1, 0, 0, 1, $3, n, 0, 1, 0, false, n, 'USD',
         '2026-03-01'::timestamptz + (n / 7) * interval '1 millisecond'
       from generate_series(1, 25000) n`,
      [tenant.id, tenant.defaultAgentId, 'm'.repeat(900)],
    )
  }
}, 90_000)

// An export that is still being sent has a seat, and the next test counts them.
afterEach(() => expect.poll(openTransactions, patience).toBe(0))

afterAll(async () => {
  await admin.end()
  await platform.stop()
})

async function openTransactions(): Promise<number> {
  const { rows } = await admin.query<{ open: number }>(
    "select count(*)::int as open from pg_stat_activity where datname = current_database() and state = 'idle in transaction'",
  )
  return rows[0]?.open ?? 0
}

const march = { from: '2026-03-01', to: '2026-04-01T00:00:00Z' }

const pathOf = (parameters: Record<string, string>) => `/usage?${new URLSearchParams(parameters)}`

const fetchAs = (key: string | null, parameters: Record<string, string>, init: RequestInit = {}) =>
  fetch(platform.url + pathOf(parameters), { ...init, headers: key === null ? {} : { authorization: `Bearer ${key}` } })

/** Everything about an answer but when it was given. */
async function answerTo(key: string | null, parameters: Record<string, string>) {
  const response = await fetchAs(key, parameters)
  const headers = [...response.headers].filter(([name]) => name !== 'date')
  return { status: response.status, headers, body: await response.text() }
}

async function headOf(key: string, parameters: Record<string, string>): Promise<[number, string | null]> {
  const { status, headers, body } = await fetchAs(key, parameters)
  await body?.cancel()
  return [status, headers.get('retry-after')]
}

type Entry = { at?: string; model?: string; user?: string | null; correctsId?: string; input?: number; costNanos?: bigint }

/** A row of the ledger. Answers its id. */
async function enter({ tenant }: TenantStory, entry: Entry = {}): Promise<string> {
  const {
    at = '2026-03-15T12:00:00.123Z',
    model = 'gpt-4o',
    user = null,
    correctsId = null,
    input = 10,
    costNanos = 25_000n,
  } = entry
  const id = newId()
  const pseudonym = user === null ? null : newId()
  if (pseudonym)
    await admin.query('insert into user_pseudonyms (id, tenant_id, user_id) values ($1, $2, $3)', [pseudonym, tenant.id, user])
  await admin.query(
    `insert into usage_records (id, tenant_id, conversation_id, run_id, user_pseudonym, agent_id, config_version, turn, call, attempt,
       correction, corrects_id, model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency,
       created_at)
     values ($1, $2, $3, $4, $5, $6, 3, 2, 0, 1, $7, $8, $9, $10, 4, 5, 1, $11, $12, 'USD', $13)`,
    [
      ...[id, tenant.id, newId(), newId(), pseudonym, tenant.defaultAgentId, correctsId === null ? 0 : 1, correctsId],
      ...[model, input, correctsId === null, costNanos, at],
    ],
  )
  return id
}

const json = async (key: string, parameters: Record<string, string>): Promise<Record<string, unknown>[]> =>
  (await fetchAs(key, { ...parameters, format: 'json' })).json()

/** An archive of the tenant's that can be fetched. */
async function beginExport({ admin: scope }: TenantStory): Promise<string> {
  const { tenantExport } = await exportTenant(scope, {})
  return encodeId('TenantExport', tenantExport.id)
}

/** A client that takes the head of the answer and nothing of its body. */
async function openAndWait({ keys }: TenantStory): Promise<IncomingMessage> {
  const ask = async () => {
    const request = get(platform.url + pathOf(march), { headers: { authorization: `Bearer ${keys.admin}` }, agent: false })
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    return response
  }
  // The place of one that has just ended is free a moment after its transaction is over.
  let response = await ask()
  for (const deadline = Date.now() + 5_000; response.statusCode === 429 && Date.now() < deadline; ) response = await ask()
  expect(response.statusCode).toBe(200)
  response.pause()
  return response
}

describe('GET /usage', () => {
  it('answers every row of the range once, oldest first, in both formats alike', async () => {
    const csv = await fetchAs(large.keys.member, march)
    expect(csv.headers.get('content-type')).toContain('text/csv')
    expect(csv.headers.get('content-disposition')).toBe('attachment; filename="usage-2026-03-01-2026-04-01.csv"')
    const rows = parse(await csv.text(), { columns: true }) as Record<string, string>[]
    expect(rows.map(({ inputTokens }) => Number(inputTokens)).toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: 25_000 }, (_, index) => index + 1),
    )
    const times = rows.map(({ createdAt = '' }) => createdAt)
    expect(times).toEqual(times.toSorted())
    const objects = await json(large.keys.admin, march)
    expect(objects.map(({ id }) => id)).toEqual(rows.map(({ id }) => id))
    expect(Object.keys(objects[0] ?? {})).toEqual(Object.keys(rows[0] ?? {}))
  }, 60_000)

  it('tells all of a row, exactly, and who it was for until they are erased', async () => {
    const tenant = await platform.story.tenant()
    const id = await enter(tenant, { user: 'ann', costNanos: 9_007_199_254_740_993n })
    const correction = await enter(tenant, { correctsId: id, at: '2026-03-20T00:00:00Z', input: -10, costNanos: -25_001n })
    const [call, corrected] = await json(tenant.keys.member, march)
    expect(call).toEqual({
      ...{ id: encodeId('UsageRecord', id), createdAt: '2026-03-15T12:00:00.123Z', model: 'gpt-4o', estimated: true },
      ...{ inputTokens: 10, cachedInputTokens: 4, outputTokens: 5, reasoningTokens: 1 },
      ...{ costNanos: '9007199254740993', cost: '9007199.254740993', currency: 'USD', userId: 'ann' },
      ...{ conversationId: expect.any(String), runId: expect.any(String), configVersion: 3, turn: 2, attempt: 1 },
      agentId: encodeId('Agent', tenant.tenant.defaultAgentId ?? ''),
      ...{ correction: 0, correctsId: null, priceId: null, tenantPriceId: null },
    })
    const taken = { id: encodeId('UsageRecord', correction), inputTokens: -10, cost: '-0.000025001', userId: null }
    expect(corrected).toMatchObject({ ...taken, correction: 1, correctsId: call?.['id'], estimated: false })
    const [, , line] = (await answerTo(tenant.keys.admin, march)).body.split('\r\n')
    expect(line).toContain(',-10,4,5,1,false,-25001,-0.000025001,USD,')
    await admin.query('delete from user_pseudonyms where tenant_id = $1', [tenant.tenant.id])
    expect((await json(tenant.keys.member, march))[0]).toMatchObject({ userId: null })
  })

  it('quotes texts as RFC 4180 does, and makes no formula of them', async () => {
    const tenant = await platform.story.tenant()
    const models = ['=cmd|x', '+1', '-1', '@sum', '\tgpt', 'a,"b"', 'two\r\nlines', "it's", 'plain']
    for (const [index, model] of models.entries())
      await enter(tenant, { model, at: `2026-03-01T00:00:0${index}Z`, user: index === 0 ? '=user' : null })
    const { body } = await answerTo(tenant.keys.member, march)
    expect(body).toContain('"a,""b"""')
    expect(body.startsWith('id,createdAt,model,')).toBe(true)
    const rows = parse(body, { columns: true, record_delimiter: '\r\n' }) as Record<string, string>[]
    expect(rows.map(({ model }) => model)).toEqual(models.map((model) => (/^[=+\-@\t]/.test(model) ? `'${model}` : model)))
    expect(rows[0]?.['userId']).toBe("'=user")
    expect((await json(tenant.keys.member, march)).map(({ model }) => model)).toEqual(models)
  })

  it('is of the first moment of the range, and not of its last', async () => {
    const tenant = await platform.story.tenant()
    for (const at of ['2026-02-28T23:59:59.999Z', '2026-03-01T00:00:00Z', '2026-03-31T23:59:59.999Z', '2026-04-01T00:00:00Z'])
      await enter(tenant, { at })
    const times = async (range: object) =>
      (await json(tenant.keys.member, { ...march, ...range })).map(({ createdAt }) => createdAt)
    expect(await times({})).toEqual(['2026-03-01T00:00:00.000Z', '2026-03-31T23:59:59.999Z'])
    expect(await times({ from: '2026-03-01T01:00:00+01:00', to: '2026-03-02' })).toEqual(['2026-03-01T00:00:00.000Z'])
    expect(await times({ from: '2020-01-01', to: '2020-01-02' })).toEqual([])
    expect((await answerTo(tenant.keys.member, { from: '2020-01-01', to: '2020-01-02' })).body).toMatch(/^id,.*\r\n$/)
  })

  it('shows operators any tenant’s that they name, but not what is its own business', { tags: ['rule-16'] }, async () => {
    const tenant = await platform.story.tenant()
    const id = await enter(tenant, { user: 'ann' })
    const named = { ...march, tenantId: encodeId('Tenant', tenant.tenant.id) }
    const hidden = ['conversationId', 'runId', 'userId', 'agentId', 'configVersion']
    const [row = {}] = await json(operator, named)
    expect(row).toMatchObject({ id: encodeId('UsageRecord', id), model: 'gpt-4o', costNanos: '25000', turn: 2, attempt: 1 })
    expect(Object.keys(row).filter((column) => hidden.includes(column))).toEqual([])
    const { body } = await answerTo(operator, named)
    expect(body.split('\r\n')[0]).toBe(Object.keys(row).join(','))
    expect(body).not.toContain('ann')
    expect(await answerTo(operator, march)).toMatchObject({ status: 400, body: expect.stringContaining('Say whose') })
  })

  it("answers another tenant's id as an unknown one and as none, to the byte", { tags: ['rule-12'] }, async () => {
    const { acme, globex } = platform
    const ids = [encodeId('Tenant', newId()), encodeId('Run', globex.tenant.id), 'nonsense', '', 'x'.repeat(2_000)]
    const other = await answerTo(acme.keys.admin, { ...march, tenantId: encodeId('Tenant', globex.tenant.id) })
    expect(other.status).toBe(404)
    for (const tenantId of ids) expect(await answerTo(acme.keys.admin, { ...march, tenantId })).toEqual(other)
    expect((await answerTo(operator, { ...march, tenantId: 'nonsense' })).status).toBe(404)
    expect((await answerTo(acme.keys.admin, { ...march, tenantId: encodeId('Tenant', acme.tenant.id) })).status).toBe(200)
  })

  it('is for staff: others learn nothing', { tags: ['rule-16'] }, async () => {
    const { keys } = platform.acme
    expect((await answerTo(keys.endUser, march)).status).toBe(403)
    expect((await answerTo(keys.endUser, { from: 'nonsense' })).status).toBe(403)
    for (const key of [null, 'nonsense', keys.admin.slice(0, -1) + (keys.admin.endsWith('x') ? 'y' : 'x')]) {
      const answer = await answerTo(key, march)
      expect([answer.status, Object.fromEntries(answer.headers)['www-authenticate']]).toEqual([401, 'Bearer'])
    }
    expect((await fetchAs(keys.admin, march, { method: 'POST' })).status).toBe(405)
  })

  it.each([
    ['backwards', { from: '2026-04-01', to: '2026-03-01' }, 'The range must end after it begins.'],
    ['longer than a year', { from: '2024-01-01', to: '2026-01-01' }, 'A range is a year at most.'],
    ['without a beginning', { to: '2026-03-01' }, 'Say from when'],
    ['without an end', { from: '2026-03-01' }, 'Say to when'],
    ['no time', { from: 'yesterday', to: '2026-03-01' }, 'What is given as from must be a time in ISO 8601'],
    ['on no day', { from: '2026-02-30', to: '2026-03-01' }, 'What is given as from must be a time in ISO 8601'],
    ['with a + that became a space', { from: '2026-03-01T00:00:00 01:00', to: '2026-03-02' }, 'A + is written %2B in a URL.'],
    ['in a format that is not known', { ...march, format: 'xml' }, 'The format must be csv or json.'],
  ])('is refused for a range that is %s', async (_what, parameters, message) => {
    const answer = await answerTo(platform.acme.keys.member, parameters as Record<string, string>)
    expect([answer.status, answer.body]).toEqual([400, expect.stringContaining(message)])
  })

  it('takes no more than the client does, and frees its connection when the client is gone', async () => {
    const response = await openAndWait(large)
    await until(async () => (await openTransactions()) === 1)
    response.destroy()
    await until(async () => (await openTransactions()) === 0)
    await expect.poll(() => headOf(large.keys.admin, march), patience).toEqual([200, null])
  })

  it('leaves a place to others, whatever one tenant asks for', async () => {
    const [ledgers, begun] = [await Promise.all([large, large].map(openAndWait)), await beginExport(large)]
    const archive = await fetch(`${platform.url}/exports/${begun}`, { headers: { authorization: `Bearer ${large.keys.admin}` } })
    expect(archive.status).toBe(429)
    await expect.poll(() => headOf(platform.acme.keys.admin, march), patience).toEqual([200, null])
    for (const response of ledgers) response.destroy()
    await until(async () => (await openTransactions()) === 0)
  })

  it('asks to wait when the tenant, or this process, sends enough already', async () => {
    const responses = await Promise.all([large, large, another].map(openAndWait))
    await until(async () => (await openTransactions()) === 3)
    expect(await headOf(platform.acme.keys.admin, march)).toEqual([429, '5'])
    responses[2]?.destroy()
    await until(async () => (await openTransactions()) === 2)
    expect(await headOf(large.keys.admin, march)).toEqual([429, '5'])
    await expect.poll(() => headOf(platform.acme.keys.admin, march), patience).toEqual([200, null])
    for (const response of responses) response.destroy()
    await until(async () => (await openTransactions()) === 0)
    await expect.poll(() => headOf(large.keys.admin, march), patience).toEqual([200, null])
  })

  it('ends with its key, and what was sent is not taken for the whole', { tags: ['rule-17'] }, async () => {
    const response = await openAndWait(another)
    await until(async () => (await openTransactions()) === 1)
    await revokeApiKey(another.admin, { apiKeyId: another.admin.actor.id })
    await until(async () => (await openTransactions()) === 0)
    await expect(text(response)).rejects.toThrow('aborted')
    expect((await fetchAs(another.keys.admin, march)).status).toBe(401)
  })
})
