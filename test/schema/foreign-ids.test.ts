// @module-tag rule-12
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { say } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
/** Ids that must be answered alike: of another tenant's thing, of nothing, of another type, and none at all. */
const ids: Record<'Tenant' | 'Agent' | 'AgentConfig' | 'Conversation' | 'Message' | 'Run' | 'ApiKey', string[]> = {} as never

beforeAll(async () => {
  platform = await startTestPlatform()
  const { tenant, admin, keys } = platform.globex
  const { conversationId, runId } = await say(platform.api(keys.admin), 'Hello.')
  const [config, message] = await Promise.all([admin.db.agentConfig.findFirstOrThrow(), admin.db.message.findFirstOrThrow()])
  const alike = (type: keyof typeof ids, foreign: string) => [
    foreign,
    encodeId(type, newId()),
    encodeId(type === 'Run' ? 'Message' : 'Run', newId()),
    'nonsense',
    '',
    '\u0000',
    'x'.repeat(10_000),
  ]
  Object.assign(ids, {
    Tenant: alike('Tenant', encodeId('Tenant', tenant.id)),
    Agent: alike('Agent', encodeId('Agent', tenant.defaultAgentId ?? '')),
    AgentConfig: alike('AgentConfig', encodeId('AgentConfig', config.id)),
    Conversation: alike('Conversation', conversationId),
    Message: alike('Message', encodeId('Message', message.id)),
    Run: alike('Run', runId),
    ApiKey: alike('ApiKey', encodeId('ApiKey', admin.actor.id)),
  })
})

afterAll(() => platform.stop())

async function answers(key: string, query: string, type: keyof typeof ids): Promise<string[]> {
  const all = ids[type].map(async (id) => {
    const response = await fetch(`${platform.url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
      body: JSON.stringify({ query, variables: { id } }),
    })
    return `${response.status} ${await response.text()}`
  })
  return Promise.all(all)
}

describe("another tenant's id, an unknown one and none at all", () => {
  it.each([
    ['Tenant', 'tenant(id: $id) { name }', { tenant: null }],
    ['Agent', 'agent(id: $id) { name }', { agent: null }],
    ['Conversation', 'conversation(id: $id) { title }', { conversation: null }],
    ['Run', 'run(id: $id) { status }', { run: null }],
    ['Tenant', 'node(id: $id) { id }', { node: null }],
    ['Agent', 'node(id: $id) { id }', { node: null }],
    ['AgentConfig', 'node(id: $id) { id }', { node: null }],
    ['Conversation', 'node(id: $id) { id }', { node: null }],
    ['Message', 'node(id: $id) { id }', { node: null }],
    ['Run', 'node(id: $id) { id }', { node: null }],
  ] as const)('of type %s look up nothing: %s', async (type, field, data) => {
    const all = await answers(platform.acme.keys.admin, `query ($id: ID!) { ${field} }`, type)
    expect(new Set(all)).toEqual(new Set([`200 ${JSON.stringify({ data })}`]))
  })

  it.each([
    ['ApiKey', 'revokeApiKey(input: { apiKeyId: $id })'],
    ['Agent', 'createConversation(input: { agentId: $id })'],
    ['Conversation', 'renameConversation(input: { conversationId: $id, title: "x" })'],
    ['Conversation', 'deleteConversation(input: { conversationId: $id })'],
    ['Conversation', 'sendMessage(input: { conversationId: $id, content: "x" })'],
    ['Run', 'cancelRun(input: { runId: $id })'],
    ['Agent', 'updateAgentConfig(input: { agentId: $id, temperature: 1 })'],
  ] as const)('of type %s are NotFound: %s', async (type, mutation) => {
    const selection = '{ __typename ... on Problem { code message } }'
    const all = await answers(platform.acme.keys.admin, `mutation ($id: ID!) { result: ${mutation} ${selection} }`, type)
    expect(new Set(all).size).toBe(1)
    expect(all[0]).toMatch(
      /^200 \{"data":\{"result":\{"__typename":"NotFound","code":"NOT_FOUND","message":"There is no such \w[\w ]*\."\}\}\}$/,
    )
  })

  it.each([
    ['Agent', 'conversations(filter: { agentId: $id }) { edges { cursor } }', { conversations: { edges: [] } }],
    ['Conversation', 'runs(filter: { conversationId: $id }) { edges { cursor } }', { runs: { edges: [] } }],
  ] as const)('of type %s filter everything out: %s', async (type, field, data) => {
    await say(platform.api(platform.acme.keys.admin), 'Hello.')
    const all = await answers(platform.acme.keys.admin, `query ($id: ID) { ${field} }`, type)
    expect(new Set(all)).toEqual(new Set([`200 ${JSON.stringify({ data })}`]))
  })

  it('of an agent have no configuration', async () => {
    const all = await answers(platform.acme.keys.admin, 'query ($id: ID) { agentConfig(agentId: $id) { model } }', 'Agent')
    expect(new Set(all).size).toBe(1)
    expect(all[0]).toContain('"code":"NOT_FOUND"')
  })
})
