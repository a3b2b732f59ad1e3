// @module-tag rule-16
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { conversationQuery } from '../operations/conversation.ts'
import { tenantQuery } from '../operations/tenant.ts'
import { viewerQuery } from '../operations/viewer.ts'
import type { Api } from '../support/api.ts'
import { begin, say } from '../support/conversing.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
const api: Record<'admin' | 'member' | 'endUser' | 'operator', Api> = {} as never
/** Ids of acme's things. */
const ids: Record<'tenant' | 'agent' | 'config' | 'conversation' | 'run' | 'message', string> = {} as never

beforeAll(async () => {
  platform = await startTestPlatform()
  const { keys, tenant, admin } = platform.acme
  for (const role of ['admin', 'member', 'endUser'] as const) api[role] = platform.api(keys[role])
  api.operator = platform.api(await operatorKey(platform.story))
  const { conversationId, runId } = await say(api.admin, 'Hello.')
  const config = await admin.db.agentConfig.findFirstOrThrow()
  const message = await admin.db.message.findFirstOrThrow()
  Object.assign(ids, {
    tenant: encodeId('Tenant', tenant.id),
    agent: encodeId('Agent', tenant.defaultAgentId ?? ''),
    config: encodeId('AgentConfig', config.id),
    conversation: conversationId,
    run: runId,
    message: encodeId('Message', message.id),
  })
})

afterAll(() => platform.stop())

/** The code of the first error; null when there is none. */
async function codeOf(as: Api, query: string): Promise<unknown> {
  const { errors } = await as.client.request(query)
  return errors?.[0]?.extensions?.['code'] ?? null
}

async function problemOf(as: Api, mutation: string): Promise<unknown> {
  const data = await as.client.data<{ result: { __typename: string } }>(`mutation { result: ${mutation} { __typename } }`)
  return data.result.__typename
}

const configuration = [
  '{ agents { id } }',
  '{ agent(id: "x") { id } }',
  '{ agentConfig { model } }',
  '{ agentConfigVersions { edges { cursor } } }',
  '{ agentConfigDiff(from: 1, to: 1) { field } }',
  '{ agentVersionStats(range: { from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z" }) { version } }',
  '{ tenant { name } }',
]
const content = [
  '{ conversations { edges { cursor } } }',
  '{ conversation(id: "x") { id } }',
  '{ runs { edges { cursor } } }',
  '{ run(id: "x") { id } }',
]
const adminMutations = [
  'createApiKey(input: { name: "x", role: MEMBER })',
  'revokeApiKey(input: { apiKeyId: "x" })',
  'updateAgentConfig(input: { temperature: 1 })',
  'publishAgentConfig(input: { agentConfigId: "x" })',
  'rollbackAgentConfig(input: { version: 1 })',
  'createAgent(input: { name: "x" })',
  'renameAgent(input: { agentId: "x", name: "y" })',
  'archiveAgent(input: { agentId: "x" })',
  'setDefaultAgent(input: { agentId: "x" })',
]
const contentMutations = [
  'createConversation(input: {})',
  'renameConversation(input: { conversationId: "x", title: "y" })',
  'deleteConversation(input: { conversationId: "x" })',
  'sendMessage(input: { conversationId: "x", content: "y" })',
  'cancelRun(input: { runId: "x" })',
]

describe('viewer', () => {
  it('tells everybody who they are', async () => {
    const tenant = { name: platform.acme.tenant.name, plan: 'PRO', status: 'ACTIVE', id: ids.tenant }
    expect((await api.admin.data(viewerQuery)).viewer).toMatchObject({ role: 'ADMIN', userId: null, actorName: 'Ada', tenant })
    expect((await api.endUser.data(viewerQuery)).viewer).toMatchObject({ role: 'END_USER', userId: 'ursula', tenant })
    expect((await api.operator.data(viewerQuery)).viewer).toEqual({
      role: 'OPERATOR',
      userId: null,
      actorName: 'Olga',
      tenant: null,
    })
  })
})

describe('an end user', () => {
  it.each([...configuration, '{ apiKeys { id } }'])('may not ask %s', async (query) => {
    expect(await codeOf(api.endUser, query)).toBe('FORBIDDEN')
  })

  it.each(['tenant', 'agent', 'config'] as const)('may not reach a node of type %s, there or not', async (what) => {
    expect(await codeOf(api.endUser, `{ node(id: "${ids[what]}") { __typename } }`)).toBe('FORBIDDEN')
  })

  it.each(adminMutations)('gets Forbidden for %s', async (mutation) => {
    expect(await problemOf(api.endUser, mutation)).toBe('Forbidden')
  })

  it('sees who answers, and not how that agent is configured', async () => {
    const id = await begin(api.endUser)
    const { conversation } = await api.endUser.data(conversationQuery, { id })
    expect(conversation?.userId).toBe('ursula')
    expect(conversation?.agent).toEqual({ name: expect.stringContaining('Assistant'), config: null })
  })

  it("sees nothing of others, be it staff's or another end user's", { tags: ['rule-18'] }, async () => {
    const { key } = await platform.story.endUser(platform.acme.admin, 'uwe')
    const uwe = await say(platform.api(key), 'Mine.')
    for (const [conversation, run] of [
      [ids.conversation, ids.run],
      [uwe.conversationId, uwe.runId],
    ]) {
      const query = `{ conversation(id: "${conversation}") { id } run(id: "${run}") { id } a: node(id: "${conversation}") { id } b: node(id: "${run}") { id } }`
      expect(await api.endUser.client.data(query)).toEqual({ conversation: null, run: null, a: null, b: null })
      expect(await problemOf(api.endUser, `sendMessage(input: { conversationId: "${conversation}", content: "x" })`)).toBe(
        'NotFound',
      )
      expect(await problemOf(api.endUser, `cancelRun(input: { runId: "${run}" })`)).toBe('NotFound')
      expect(await problemOf(api.endUser, `resumeRun(input: { runId: "${run}" })`)).toBe('Forbidden')
      expect(await problemOf(api.endUser, `deleteConversation(input: { conversationId: "${conversation}" })`)).toBe('NotFound')
    }
    expect(await api.endUser.client.data(`{ node(id: "${ids.message}") { id } }`)).toEqual({ node: null })
    const { conversations } = await api.endUser.client.data<{ conversations: { edges: { node: { userId: string } }[] } }>(
      '{ conversations { edges { node { userId } } } }',
    )
    expect(new Set(conversations.edges.map(({ node }) => node.userId))).toEqual(new Set(['ursula']))
  })

  it('may not act for another', { tags: ['rule-18'] }, async () => {
    expect(await problemOf(api.endUser, 'createConversation(input: { userId: "uwe" })')).toBe('Forbidden')
    expect(await problemOf(api.endUser, 'createConversation(input: { userId: "ursula" })')).toBe('CreateConversationPayload')
    expect(await codeOf(api.endUser, '{ conversations(filter: { userId: "uwe" }) { edges { cursor } } }')).toBe('FORBIDDEN')
  })
})

describe('a member', () => {
  it.each([...configuration, ...content])('may ask %s', async (query) => {
    expect(await codeOf(api.member, query)).toBeNull()
  })

  it("sees all the tenant's conversations", async () => {
    expect((await api.member.data(conversationQuery, { id: ids.conversation })).conversation?.agent?.config?.version).toBe(1)
  })

  it('may not see keys', async () => {
    expect(await codeOf(api.member, '{ apiKeys { id } }')).toBe('FORBIDDEN')
  })

  it.each(adminMutations)('gets Forbidden for %s', async (mutation) => {
    expect(await problemOf(api.member, mutation)).toBe('Forbidden')
  })
})

describe('an operator', () => {
  it.each([...configuration.slice(0, 3), ...content, '{ apiKeys { id } }'])('may not ask %s', async (query) => {
    expect(await codeOf(api.operator, query)).toBe('FORBIDDEN')
  })

  it.each(['agent', 'config', 'conversation', 'run', 'message'] as const)('may not reach a node of type %s', async (what) => {
    expect(await codeOf(api.operator, `{ node(id: "${ids[what]}") { id } }`)).toBe('FORBIDDEN')
  })

  it.each([...adminMutations, ...contentMutations])('gets Forbidden for %s', async (mutation) => {
    expect(await problemOf(api.operator, mutation)).toBe('Forbidden')
  })

  it('sees any tenant, and none without naming it', async () => {
    expect((await api.operator.data(tenantQuery, { id: ids.tenant })).tenant?.name).toBe(platform.acme.tenant.name)
    expect((await api.operator.data(tenantQuery, { id: null })).tenant).toBeNull()
    expect(await api.operator.client.data(`{ node(id: "${ids.tenant}") { __typename } }`)).toEqual({
      node: { __typename: 'Tenant' },
    })
  })

  it('may not follow a run', async () => {
    const query = `subscription { agentReply(runId: "${ids.run}") { __typename } }`
    await expect(api.operator.client.events(query).next()).rejects.toThrow('FORBIDDEN')
  })
})

describe('nobody', () => {
  it.each([
    ...configuration,
    ...content,
    '{ viewer { role } }',
    '{ node(id: "x") { id } }',
    ...contentMutations.map((m) => `mutation { ${m} { __typename } }`),
  ])('may %s', async (query) => {
    expect(await codeOf(platform.api('nonsense'), query)).toBe('UNAUTHENTICATED')
  })
})
