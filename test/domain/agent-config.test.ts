import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { AgentConfig } from '../../src/data/generated/client.ts'
import { activeAgentConfig, activeConfigsByAgent, findAgentConfig, updateAgentConfig } from '../../src/domain/agent-config.ts'
import { Conflict, Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
})
afterAll(() => story.close())

describe('publishing', () => {
  test('makes a new active version with the change and keeps the rest', async () => {
    const { admin } = await story.tenant({ agent: { systemPrompt: 'Be brief.', temperature: 0.1 } })
    const first = await activeAgentConfig(admin)
    expect(first).toMatchObject({ version: 1, status: 'PUBLISHED', systemPrompt: 'Be brief.', temperature: 0.1 })
    const second = await updateAgentConfig(admin, {
      systemPrompt: 'Be kind.',
      enabledTools: ['current_time'],
      branding: { primaryColor: '#ff6600' },
    })
    expect(second).toEqual({
      ...first,
      id: second.id,
      version: 2,
      systemPrompt: 'Be kind.',
      enabledTools: ['current_time'],
      branding: { primaryColor: '#ff6600' },
      createdAt: second.createdAt,
      publishedAt: second.publishedAt,
    })
    expect(second.publishedAt).not.toBeNull()
    expect(await activeAgentConfig(admin)).toEqual(second)
    expect(await findAgentConfig(admin, first.id)).toEqual(first)
  })

  test('takes null as "leave it", and empty values as values', async () => {
    const { admin } = await story.tenant({ agent: { enabledTools: ['current_time'], systemPrompt: 'Be brief.' } })
    const kept = await updateAgentConfig(admin, { systemPrompt: null, enabledTools: null, temperature: null, branding: null })
    expect(kept).toMatchObject({ systemPrompt: 'Be brief.', enabledTools: ['current_time'] })
    expect(await updateAgentConfig(admin, { systemPrompt: '', enabledTools: [], temperature: 0 })).toMatchObject({
      systemPrompt: '',
      enabledTools: [],
      temperature: 0,
    })
  })

  // As many as there are connections: more would wait for one, and on a machine with much else to do in vain.
  test('ten times at once makes ten versions, each on top of the one before', async () => {
    const { admin } = await story.tenant()
    const changes = [{ temperature: 0.5 }, { maxTurns: 7 }, { maxOutputTokens: 99 }, { model: 'gpt-4o' }, { systemPrompt: 'x' }]
    await Promise.all([...changes, ...changes].map((change) => updateAgentConfig(admin, change)))
    const versions = await admin.db.agentConfig.findMany({ orderBy: { version: 'asc' } })
    expect(versions.map(({ version }) => version)).toEqual(Array.from({ length: 11 }, (_, index) => index + 1))
    expect(await activeAgentConfig(admin)).toMatchObject({ version: 11, ...Object.assign({}, ...changes) })
  })

  test('changes nothing when it is refused half-way', async () => {
    const { admin } = await story.tenant()
    await updateAgentConfig(admin, { temperature: 1, idempotencyKey: 'k' })
    await expect(updateAgentConfig(admin, { temperature: 2, idempotencyKey: 'k' })).rejects.toThrow(Conflict)
    expect(await admin.db.agentConfig.count()).toBe(2)
    expect(await activeAgentConfig(admin)).toMatchObject({ version: 2, temperature: 1 })
  })

  test('once, however often it is asked for under one idempotency key', async () => {
    const { admin } = await story.tenant()
    const call = () => updateAgentConfig(admin, { temperature: 1, idempotencyKey: 'k' })
    const answers = await Promise.all(Array.from({ length: 10 }, call))
    expect(answers).toEqual(Array<AgentConfig | undefined>(10).fill(answers[0]))
    expect((await activeAgentConfig(admin)).version).toBe(2)
  })
})

describe('a draft', () => {
  test('is one per agent, is edited in place, and no run sees it before it is published', async () => {
    const { admin } = await story.tenant()
    const first = await activeAgentConfig(admin)
    const draft = await updateAgentConfig(admin, { temperature: 1, publish: false })
    expect(draft).toMatchObject({ version: 2, status: 'DRAFT', temperature: 1, publishedAt: null })
    const edited = await updateAgentConfig(admin, { maxTurns: 3, publish: false })
    expect(edited).toEqual({ ...draft, maxTurns: 3 })
    expect(await activeAgentConfig(admin)).toEqual(first)

    const published = await updateAgentConfig(admin, { model: 'gpt-4o' })
    expect(published).toEqual({ ...edited, model: 'gpt-4o', status: 'PUBLISHED', publishedAt: published.publishedAt })
    expect(await activeAgentConfig(admin)).toEqual(published)
    expect(await admin.db.agentConfig.count()).toBe(2)
  })

  test('is still one when many are begun at once', async () => {
    const { admin } = await story.tenant()
    const drafts = await Promise.all(
      Array.from({ length: 10 }, (_, index) => updateAgentConfig(admin, { maxTurns: index + 1, publish: false })),
    )
    expect(new Set(drafts.map(({ id }) => id)).size).toBe(1)
    expect(await admin.db.agentConfig.count({ where: { status: 'DRAFT' } })).toBe(1)
  })

  test('may change nothing', async () => {
    const { admin } = await story.tenant()
    const draft = await updateAgentConfig(admin, { publish: false })
    expect(await updateAgentConfig(admin, { publish: false })).toEqual(draft)
  })
})

test('a published version cannot be changed, not even by a query', async () => {
  const { admin } = await story.tenant()
  const first = await activeAgentConfig(admin)
  const { count } = await admin.db.agentConfig.updateMany({ where: { id: first.id }, data: { systemPrompt: 'Lie.' } })
  expect(count).toBe(0)
  expect(await activeAgentConfig(admin)).toEqual(first)
})

describe('the fields', () => {
  const list = (length: number) => Array.from({ length }, (_, index) => `m${index}`)
  test.each([
    ['systemPrompt', ['a\0', '\ud800', 'a'.repeat(100_001), 'é'.repeat(50_001)], ['', 'a\n\tb', 'a'.repeat(100_000)]],
    ['model', ['', ' ', 'a b', 'ä', '-x', 'a'.repeat(201)], ['gpt-4o', 'meta-llama/Llama-3.1:free', 'ft:gpt-4o:org::id']],
    ['fallbackModels', [list(11), ['a', 'a'], ['']], [[], list(10)]],
    ['temperature', [-0.1, 2.1, Number.NaN, Number.POSITIVE_INFINITY], [0, 2, 0.3]],
    ['maxOutputTokens', [0, -1, 128_001, 1.5], [1, 128_000]],
    ['maxTurns', [0, 51, 1.5, Number.NaN], [1, 50]],
    ['enabledTools', [['nonsense'], ['current_time', 'current_time'], list(129)], [[], ['current_time']]],
    ['historyPolicy', [], ['ALL', 'LAST_EXCHANGES', 'NONE']],
    ['historyExchanges', [0, 101, 1.5], [1, 100]],
    ['budgetBehaviour', [], ['END', 'PAUSE', null]],
  ])('%s keep their bounds', async (field, bad, good) => {
    const { admin } = await story.tenant()
    for (const value of bad) {
      const refusal = await updateAgentConfig(admin, { [field]: value }).catch((error) => error)
      expect(refusal, JSON.stringify(value).slice(0, 100)).toBeInstanceOf(ValidationProblem)
      expect(refusal.path).toEqual([field])
    }
    expect(await admin.db.agentConfig.count()).toBe(1)
    for (const value of good) expect(await updateAgentConfig(admin, { [field]: value })).toMatchObject({ [field]: value })
  })

  test('name only models with a price, unless there is a ceiling', async () => {
    const strict = await startStory({ ceiling: false })
    const { admin } = await strict.tenant()
    for (const change of [{ model: 'nameless' }, { fallbackModels: ['gpt-4o', 'nameless'] }]) {
      await expect(updateAgentConfig(admin, change)).rejects.toThrow(ValidationProblem)
    }
    const priced = { model: 'gpt-4o', fallbackModels: ['gpt-4o-mini'] }
    expect(await updateAgentConfig(admin, priced)).toMatchObject(priced)
    expect(await updateAgentConfig(acme.admin, { model: 'nameless' })).toMatchObject({ model: 'nameless' })
    await strict.close()
  })
})

describe('who may', () => {
  test('write: admins', async () => {
    for (const scope of [acme.member, acme.endUser]) {
      await expect(updateAgentConfig(scope, { temperature: 99 })).rejects.toThrow(Forbidden)
    }
  })

  test('read: members', async () => {
    const config = await activeAgentConfig(acme.admin)
    expect(await activeAgentConfig(acme.member, config.agentId)).toEqual(config)
    expect(await findAgentConfig(acme.member, config.id)).toEqual(config)
    await expect(activeAgentConfig(acme.endUser)).rejects.toThrow(Forbidden)
    await expect(activeConfigsByAgent(acme.endUser, [config.agentId])).rejects.toThrow(Forbidden)
    await expect(findAgentConfig(acme.endUser, config.id)).rejects.toThrow(Forbidden)
  })
})

test("another tenant's agent is no agent", async () => {
  const foreign = await activeAgentConfig(globex.admin)
  const failures = []
  for (const agentId of [foreign.agentId, newId(), 'nonsense']) {
    failures.push(await activeAgentConfig(acme.admin, agentId).catch((error) => error))
    failures.push(await updateAgentConfig(acme.admin, { agentId, maxTurns: 1 }).catch((error) => error))
  }
  for (const failure of failures) {
    expect(failure).toBeInstanceOf(NotFound)
    expect(failure.message).toBe(failures[0].message)
  }
  for (const id of [foreign.id, newId(), 'nonsense']) expect(await findAgentConfig(acme.admin, id)).toBeNull()
  const own = acme.tenant.defaultAgentId ?? ''
  expect([...(await activeConfigsByAgent(acme.admin, [own, foreign.agentId, newId(), 'nonsense'])).keys()]).toEqual([own])
  expect(await activeAgentConfig(globex.admin)).toEqual(foreign)
})
