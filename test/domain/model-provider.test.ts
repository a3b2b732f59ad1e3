import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { seeded } from '../../src/domain/quota-terms.ts'
import { deleteSecret, setSecret } from '../../src/domain/secret.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { createEgress } from '../../src/tools/egress.ts'
import { createGuardedRequest } from '../../src/tools/guarded-request.ts'
import { type FakeUpstream, fails, says, startFakeUpstream } from '../support/fake-upstream.ts'
import { ask, follow, shownAfter, startWorker, type TestWorker } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

/** Where tenants may go, beside the public Internet. */
const egress = { allowHttp: true, allowed: [{ address: '127.0.0.1', port: null }] }
const canary = 'sk-canary-of-the-tenant'

let story: Story
let platform: FakeUpstream
let own: FakeUpstream
let work: TestWorker
const taken: string[] = []

beforeAll(async () => {
  story = await startStory({ ports: { egress: createEgress(egress) } })
})

beforeEach(async () => {
  ;[platform, own] = await Promise.all([startFakeUpstream(), startFakeUpstream()])
  const sendElsewhere = createGuardedRequest(egress)
  const model = createOpenAiModel({ baseUrl: platform.url, apiKey: 'of-the-platform', sendElsewhere })
  const slots = new MemoryModelSlots({ named: new Map(), others: 1 })
  const modelSlots = {
    bounded: [],
    acquire: (...[request, signal]: Parameters<typeof slots.acquire>) => {
      taken.push(request.tenantId)
      return slots.acquire(request, signal)
    },
  }
  work = await startWorker(story, { model, ports: { ...story.ports, modelSlots } })
})

afterEach(async () => {
  await work[Symbol.asyncDispose]()
  await Promise.all([platform.close(), own.close()])
})

afterAll(() => story.close())

async function tenantWithKey(settings: { modelBaseUrl?: string } = {}): Promise<TenantStory> {
  const tenant = await story.tenant()
  await setSecret(tenant.admin, { name: 'MODEL_KEY', value: canary })
  await updateTenantSettings(tenant.admin, { modelKeySecret: 'MODEL_KEY', ...settings })
  return tenant
}

const keysAt = ({ requests }: FakeUpstream) => requests.map(({ headers }) => headers.authorization)

describe('a tenant with a key of its own', () => {
  it('is answered with that key, at its own provider, and is charged and counted as any other', async () => {
    const tenant = await tenantWithKey({ modelBaseUrl: own.url })
    own.otherwise(says('From my own.'))
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('From my own.')
    expect([keysAt(own), keysAt(platform)]).toEqual([[`Bearer ${canary}`], []])
    expect(taken).not.toContain(tenant.tenant.id)
    const { run: asked } = await ask(tenant.endUser)
    expect(shownAfter(await follow(tenant.endUser, asked.id))).toBe('From my own.')
    expect([keysAt(own), keysAt(platform)]).toEqual([Array(2).fill(`Bearer ${canary}`), []])
    const [record] = await tenant.admin.db.usageRecord.findMany({ where: { runId: run.id } })
    expect(record).toMatchObject({ inputTokens: 10, outputTokens: 3, costNanos: BigInt(10 * 150 + 3 * 600) })
    const { quota } = await seeded(tenant.member, (version) => story.ports.admission.read(tenant.tenant.id, version))
    expect(quota).toMatchObject({ spent: 26, reserved: 0 })
  })

  it('is answered with it where the platform has its models, when it names no other place', async () => {
    const tenant = await tenantWithKey()
    const { run } = await ask(tenant.member)
    await follow(tenant.member, run.id)
    expect(keysAt(platform)).toEqual([`Bearer ${canary}`])
  })

  it('gives the key to nobody else: others are called with that of the platform', { tags: ['redis-logs-errors'] }, async () => {
    await tenantWithKey({ modelBaseUrl: own.url })
    const other = await story.tenant()
    const { run } = await ask(other.member)
    await follow(other.member, run.id)
    expect([keysAt(platform), keysAt(own)]).toEqual([['Bearer of-the-platform'], []])
    expect(taken).toContain(other.tenant.id)
  })

  it('has the key nowhere but in the header of its provider: not in a row, an event or a failure', {
    tags: ['redis-logs-errors'],
  }, async () => {
    const tenant = await tenantWithKey({ modelBaseUrl: own.url })
    own.next(says('Fine.'), fails(401, {}, { message: `The key ${canary} is wrong.`, code: canary }))
    for (const _ of ['an answer', 'a failure']) {
      const { run } = await ask(tenant.member)
      const events = await follow(tenant.member, run.id)
      expect(JSON.stringify(events)).not.toContain(canary)
      const log = await story.ports.eventLog.read({ tenantId: tenant.tenant.id, runId: run.id }, null)
      expect(JSON.stringify(log)).not.toContain(canary)
    }
    expect(keysAt(own)).toEqual([`Bearer ${canary}`, `Bearer ${canary}`])
    for (const { name } of await selectRows(
      story.database,
      "select table_name as name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'",
    )) {
      const [found] = await selectRows(
        story.database,
        `select count(*)::int as rows from ${name} t where t::text like '%${canary}%' or t::text like '%${Buffer.from(canary).toString('hex')}%'`,
      )
      expect([name, found]).toEqual([name, { rows: 0 }])
    }
  })

  it('fails when the secret is gone, and says which setting is wrong; the platform’s key does not stand in', async () => {
    const tenant = await tenantWithKey({ modelBaseUrl: own.url })
    const secret = await tenant.admin.db.secret.findFirstOrThrow({ where: { name: 'MODEL_KEY' } })
    await deleteSecret(tenant.admin, { secretId: secret.id })
    const { run } = await ask(tenant.member)
    expect(await follow(tenant.member, run.id)).toMatchObject([
      { type: 'RunFailed', failure: { code: 'MODEL_REFUSED', message: expect.stringContaining('modelKeySecret') } },
    ])
    await setSecret(tenant.admin, { name: 'MODEL_KEY', value: 'two\nlines' })
    const { run: another } = await ask(tenant.member)
    expect(await follow(tenant.member, another.id)).toMatchObject([{ failure: { code: 'MODEL_REFUSED' } }])
    expect([...own.requests, ...platform.requests]).toEqual([])
    expect(await tenant.admin.db.usageRecord.count()).toBe(0)
    expect(await tenant.admin.db.modelCallAttempt.count()).toBe(0)
  })

  it('uses a key that was replaced from the next answer on, and the platform’s again when it names none', async () => {
    const tenant = await tenantWithKey({ modelBaseUrl: own.url })
    await setSecret(tenant.admin, { name: 'MODEL_KEY', value: 'sk-another' })
    const first = await ask(tenant.member)
    await follow(tenant.member, first.run.id)
    const { tenant: after } = await updateTenantSettings(tenant.admin, { modelKeySecret: null })
    expect(after).toMatchObject({ modelKeySecret: null, modelBaseUrl: null })
    const second = await ask(tenant.member)
    await follow(tenant.member, second.run.id)
    expect([keysAt(own), keysAt(platform)]).toEqual([['Bearer sk-another'], ['Bearer of-the-platform']])
  })

  it('is not connected to what is not public, whatever its settings were when they were checked', async () => {
    const tenant = await tenantWithKey()
    await asAdmin(story.database, (admin) =>
      admin.query('update tenants set model_base_url = $2 where id = $1', [
        tenant.tenant.id,
        own.url.replace('127.0.0.1', '127.0.0.2'),
      ]),
    )
    const { run } = await ask(tenant.member)
    expect((await follow(tenant.member, run.id, null, 20_000)).at(-1)).toMatchObject({ failure: { code: 'MODEL_UNAVAILABLE' } })
    expect(own.requests).toEqual([])
  })

  it('is answered where the platform has no key at all', async () => {
    const tenant = await tenantWithKey({ modelBaseUrl: own.url })
    await work[Symbol.asyncDispose]()
    const model = createOpenAiModel({ baseUrl: platform.url, apiKey: null, sendElsewhere: createGuardedRequest(egress) })
    work = await startWorker(story, { model })
    const { run } = await ask(tenant.member)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    const other = await story.tenant()
    const { run: refused } = await ask(other.member)
    expect(await follow(other.member, refused.id)).toMatchObject([{ failure: { code: 'MODEL_REFUSED' } }])
    expect(platform.requests).toEqual([])
  })
})

describe('the settings of it', () => {
  it.each([
    ['modelKeySecret', { modelKeySecret: 'NOBODYS' }],
    ['modelBaseUrl', { modelBaseUrl: 'https://api.example.com/v1' }],
    ['modelBaseUrl', { modelKeySecret: null, modelBaseUrl: 'not a URL' }],
    ['modelBaseUrl', { modelBaseUrl: 'ftp://api.example.com/v1' }],
    ['modelBaseUrl', { modelBaseUrl: 'https://10.0.0.1/v1' }],
    ['modelBaseUrl', { modelBaseUrl: 'https://user:word@api.example.com/v1' }],
    ['modelBaseUrl', { modelBaseUrl: 'https://api.example.com/v1?key=of-mine' }],
  ])('are refused at %s: %o', async (path, change) => {
    const { admin } = await story.tenant()
    await expect(updateTenantSettings(admin, change)).rejects.toMatchObject({ path: [path] })
    await expect(updateTenantSettings(admin, change)).rejects.toBeInstanceOf(ValidationProblem)
  })

  it('take another tenant’s secret for one that there is not', async () => {
    const [one, other] = [await tenantWithKey(), await story.tenant()]
    await expect(updateTenantSettings(other.admin, { modelKeySecret: 'MODEL_KEY' })).rejects.toBeInstanceOf(ValidationProblem)
    expect(one.tenant.id).not.toBe(other.tenant.id)
  })

  it('are in the audit log, by the name of the secret', async () => {
    const { admin } = await tenantWithKey({ modelBaseUrl: 'https://api.example.com/v1' })
    const events = await admin.db.auditEvent.findMany({ where: { action: 'updateTenantSettings' } })
    expect(events.map(({ details }) => details)).toEqual([
      { modelKeySecret: 'MODEL_KEY', modelBaseUrl: 'https://api.example.com/v1' },
    ])
  })
})
