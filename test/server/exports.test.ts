import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { gunzipSync } from 'node:zlib'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { revokeApiKey } from '../../src/domain/api-key.ts'
import { newId } from '../../src/domain/ids.ts'
import { findTenantExport } from '../../src/domain/tenant-export.ts'
import { decodeId, encodeId } from '../../src/schema/global-id.ts'
import { exportTenantMutation, tenantExportQuery } from '../operations/tenant-export.ts'
import { payload } from '../support/conversing.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { ask, until } from '../support/run-story.ts'
import type { TenantStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

/** For a busy machine. */
const patience = { timeout: 20_000 }

let platform: TestPlatform
let admin: pg.Client
/** Tenants whose archives are too long for all buffers on the way. */
let large: TenantStory
let another: TenantStory

beforeAll(async () => {
  platform = await startTestPlatform({ limits: { exports: 3 } })
  admin = new pg.Client({ connectionString: platform.story.database.adminUrl })
  await admin.connect()
  large = await largeTenant(platform)
  another = await largeTenant(platform)
}, 90_000)

// An archive that is still being sent has a seat, and the next test counts them.
afterEach(() => expect.poll(openTransactions, patience).toBe(0))

afterAll(async () => {
  await admin.end()
  await platform.stop()
})

async function begin({ keys }: TenantStory, on = platform): Promise<{ id: string; downloadPath: string }> {
  const { exportTenant } = await on.api(keys.admin).data(exportTenantMutation, { input: {} })
  return payload(exportTenant, 'ExportTenantPayload').tenantExport
}

const fetchAs = (key: string | null, path: string, init: RequestInit = {}) =>
  fetch(platform.url + path, { ...init, headers: key === null ? {} : { authorization: `Bearer ${key}` } })

/** The status and the time to wait of an answer whose body nobody wants: it keeps no seat. */
async function headOf(key: string, path: string): Promise<[number, string | null]> {
  const { status, headers, body } = await fetchAs(key, path)
  await body?.cancel()
  return [status, headers.get('retry-after')]
}

/** Everything about an answer but when it was given. */
async function answerTo(key: string | null, path: string) {
  const response = await fetchAs(key, path)
  const headers = [...response.headers].filter(([name]) => name !== 'date')
  return { status: response.status, headers, body: await response.text() }
}

/** A client that takes the head of the answer and nothing of its body. */
async function openAndWait(key: string, path: string, on = platform): Promise<IncomingMessage> {
  const request = get(on.url + path, { headers: { authorization: `Bearer ${key}` }, agent: false })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  expect(response.statusCode).toBe(200)
  response.pause()
  return response
}

/** Longer than what gzip remembers. */
const incompressible = randomBytes(30_000).toString('hex')

async function largeTenant({ story: { tenant, database } }: TestPlatform): Promise<TenantStory> {
  const story = await tenant()
  const { run } = await ask(story.endUser)
  await asAdmin(database, (superuser) =>
    superuser.query(
      `with run as (
       insert into runs (id, tenant_id, conversation_id, agent_id, config_version, model, status, finished_at)
       select gen_random_uuid(), tenant_id, conversation_id, agent_id, 1, 'm', 'COMPLETED', now()
       from runs, generate_series(1, 600) where tenant_id = $1 and id = $2
       returning *)
     insert into messages (id, tenant_id, conversation_id, run_id, role, content, tokens_used)
     select gen_random_uuid(), tenant_id, conversation_id, id, 'USER', $3, 1 from run`,
      [story.tenant.id, run.id, incompressible],
    ),
  )
  return story
}

/** Whether this export is that far. */
const statusIs =
  (id: string, status: string, { admin: scope } = large) =>
  async () =>
    (await findTenantExport(scope, decodeId('TenantExport', id)))?.status === status

/** Statements that wait for a lock. */
async function waitingForLocks(): Promise<number> {
  const { rows } = await admin.query<{ waiting: number }>(
    "select count(*)::int as waiting from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  )
  return rows[0]?.waiting ?? 0
}

/** Transactions that are open and wait for whoever opened them. */
async function openTransactions(): Promise<number> {
  const { rows } = await admin.query<{ open: number }>(
    "select count(*)::int as open from pg_stat_activity where datname = current_database() and state = 'idle in transaction'",
  )
  return rows[0]?.open ?? 0
}

describe('GET /exports/<id>', () => {
  it('answers the archive, and tells how far it is by node(id)', async () => {
    const { downloadPath, id } = await begin(platform.acme)
    const api = platform.api(platform.acme.keys.admin)
    expect((await api.data(tenantExportQuery, { id })).node).toMatchObject({ id, status: 'READY', progress: 0, downloadPath })
    const response = await fetchAs(platform.acme.keys.admin, downloadPath)
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe('application/gzip')
    expect(response.headers.get('cache-control')).toBe('no-store')
    const lines = gunzipSync(await response.arrayBuffer())
      .toString()
      .trimEnd()
      .split('\n')
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ manifest: { tenant: { name: platform.acme.tenant.name } } })
    expect(JSON.parse(lines.at(-1) ?? '')).toMatchObject({ trailer: { rows: lines.length - 2 } })
    await until(async () => (await api.data(tenantExportQuery, { id })).node?.status === 'COMPLETED')
    expect((await api.data(tenantExportQuery, { id })).node).toMatchObject({ progress: 1 })
    expect(await headOf(platform.acme.keys.admin, downloadPath)).toEqual([200, null])
  })

  it("answers another tenant's id as an unknown one and as none, to the byte", { tags: ['rule-12'] }, async () => {
    const { downloadPath } = await begin(platform.acme)
    const ids = [encodeId('TenantExport', newId()), encodeId('Run', newId()), 'nonsense', '', 'a/b', '%00', 'x'.repeat(2_000)]
    const other = await answerTo(platform.globex.keys.admin, downloadPath)
    expect(other.status).toBe(404)
    for (const id of ids) expect(await answerTo(platform.globex.keys.admin, `/exports/${id}`)).toEqual(other)
  })

  it('is for admins: others learn nothing, whether or not the id exists', { tags: ['rule-16'] }, async () => {
    const { downloadPath } = await begin(platform.acme)
    const unknown = `/exports/${encodeId('TenantExport', newId())}`
    const { keys } = platform.acme
    for (const key of [keys.member, keys.endUser, await operatorKey(platform.story)]) {
      const answer = await answerTo(key, downloadPath)
      expect(answer.status).toBe(403)
      expect(await answerTo(key, unknown)).toEqual(answer)
    }
    const misspelt = keys.admin.slice(0, -1) + (keys.admin.endsWith('x') ? 'y' : 'x')
    for (const key of [null, 'nonsense', misspelt]) {
      const answer = await answerTo(key, downloadPath)
      expect([answer.status, Object.fromEntries(answer.headers)['www-authenticate']]).toEqual([401, 'Bearer'])
      expect(await answerTo(key, unknown)).toEqual(answer)
    }
    expect((await fetchAs(keys.admin, downloadPath, { method: 'POST' })).status).toBe(405)
  })

  it('says that it has expired, a day later', async () => {
    const { downloadPath, id } = await begin(platform.acme)
    await admin.query("update tenant_exports set expires_at = now() - interval '1 second' where id = $1", [
      decodeId('TenantExport', id),
    ])
    expect((await answerTo(platform.acme.keys.admin, downloadPath)).status).toBe(410)
    expect((await answerTo(platform.globex.keys.admin, downloadPath)).status).toBe(404)
  })

  it('takes no more than the client does, frees its connection when the client is gone, and can be fetched again', async () => {
    const { downloadPath, id } = await begin(large)
    const response = await openAndWait(large.keys.admin, downloadPath)
    await until(statusIs(id, 'STREAMING'))
    await until(async () => (await openTransactions()) === 1)
    response.destroy()
    await until(statusIs(id, 'FAILED'))
    expect(await openTransactions()).toBe(0)
    expect(await headOf(large.keys.admin, downloadPath)).toEqual([200, null])
  })

  it('keeps no seat for clients that are gone before their credentials are checked', { tags: ['edge-floods'] }, async () => {
    const { downloadPath } = await begin(large)
    await admin.query('BEGIN')
    await admin.query('lock table api_keys in access exclusive mode')
    const leaving = Array.from({ length: 3 }, () =>
      get(platform.url + downloadPath, { headers: { authorization: `Bearer ${large.keys.admin}` }, agent: false }),
    )
    await until(async () => (await waitingForLocks()) > 0)
    for (const request of leaving) request.on('error', () => undefined).destroy()
    await delay(200)
    await admin.query('ROLLBACK')
    await until(async () => (await waitingForLocks()) === 0)
    await delay(500)
    await until(async () => (await openTransactions()) === 0)
    expect(await headOf(large.keys.admin, downloadPath)).toEqual([200, null])
  })

  it('cuts off a client that takes nothing', async () => {
    const strict = await startTestPlatform({ limits: { stalledMs: 1_500 } })
    const tenant = await largeTenant(strict)
    const { downloadPath, id } = await begin(tenant, strict)
    const response = await openAndWait(tenant.keys.admin, downloadPath, strict)
    const cut = once(response, 'error').catch(() => undefined)
    // The kernel has to be full before time runs.
    await expect.poll(statusIs(id, 'FAILED', tenant), patience).toBe(true)
    response.resume()
    await cut
    expect(response.complete).toBe(false)
    await strict.stop()
  }, 90_000)

  it('asks to wait when the tenant, or this process, sends enough already', { tags: ['edge-floods'] }, async () => {
    const [first, second] = [large, another]
    const paths = new Map<TenantStory, string>()
    for (const tenant of [first, second]) paths.set(tenant, (await begin(tenant)).downloadPath)
    const path = (tenant: TenantStory) => paths.get(tenant) ?? ''
    const open = [first, first, second].map((tenant) => openAndWait(tenant.keys.admin, path(tenant)))
    const responses = await Promise.all(open)
    expect(await headOf(platform.acme.keys.admin, (await begin(platform.acme)).downloadPath)).toEqual([429, '5'])
    responses[2]?.destroy()
    await until(async () => (await openTransactions()) === 2)
    expect(await headOf(first.keys.admin, path(first))).toEqual([429, '5'])
    for (const response of responses) response.destroy()
    await until(async () => (await openTransactions()) === 0)
    expect(await headOf(first.keys.admin, path(first))).toEqual([200, null])
  })

  it('ends with its key', { tags: ['rule-17'] }, async () => {
    const { downloadPath } = await begin(another)
    const response = await openAndWait(another.keys.admin, downloadPath)
    const revokedAt = performance.now()
    await revokeApiKey(another.admin, { apiKeyId: another.admin.actor.id })
    await until(async () => (await openTransactions()) === 0)
    expect(performance.now() - revokedAt).toBeLessThan(1_000)
    await expect(text(response)).rejects.toThrow('aborted')
    expect((await fetchAs(another.keys.admin, downloadPath)).status).toBe(401)
  })
})
