import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import type { CreateAgentInput, UpdateAgentConfigInput } from '../generated/graphql.ts'
import {
  agentsQuery,
  archiveAgentMutation,
  createAgentMutation,
  renameAgentMutation,
  setDefaultAgentMutation,
} from '../operations/agent.ts'
import {
  agentConfigDiffQuery,
  agentConfigQuery,
  agentConfigVersionsQuery,
  agentVersionStatsQuery,
  publishAgentConfigMutation,
  rollbackAgentConfigMutation,
  updateAgentConfigMutation,
} from '../operations/agent-config.ts'
import type { Api } from '../support/api.ts'
import { payload, say } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import type { TenantStory } from '../support/story.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
})

afterAll(() => platform.stop())

async function newTenant(): Promise<TenantStory & { api: Api; member: Api; user: Api }> {
  const tenant = await platform.story.tenant()
  const { admin, member, endUser } = tenant.keys
  return { ...tenant, api: platform.api(admin), member: platform.api(member), user: platform.api(endUser) } as never
}

async function create(api: Api, input: CreateAgentInput) {
  return payload((await api.data(createAgentMutation, { input })).createAgent, 'CreateAgentPayload').agent
}

async function update(api: Api, input: UpdateAgentConfigInput) {
  const { updateAgentConfig } = await api.data(updateAgentConfigMutation, { input })
  return payload(updateAgentConfig, 'UpdateAgentConfigPayload').agentConfig
}

describe('agents', () => {
  it('are made, renamed, preferred and put aside', async () => {
    const { api, member, tenant } = await newTenant()
    const first = encodeId('Agent', tenant.defaultAgentId ?? '')
    const sales = await create(api, { name: 'Sales', handoffAgentIds: [first], branding: { name: 'Sam' } })
    expect(sales).toMatchObject({ slug: 'sales', isDefault: false, archivedAt: null })
    const input = { agentId: sales.id }
    const renamed = await api.data(renameAgentMutation, { input: { ...input, name: 'Shop' } })
    expect(payload(renamed.renameAgent, 'RenameAgentPayload').agent).toMatchObject({ slug: 'sales', name: 'Shop' })
    const preferred = await api.data(setDefaultAgentMutation, { input })
    expect(payload(preferred.setDefaultAgent, 'SetDefaultAgentPayload').agent).toMatchObject({ isDefault: true })
    expect((await api.data(archiveAgentMutation, { input })).archiveAgent).toMatchObject({ __typename: 'Conflict' })
    const archived = await api.data(archiveAgentMutation, { input: { agentId: first } })
    expect(payload(archived.archiveAgent, 'ArchiveAgentPayload').agent.archivedAt).not.toBeNull()
    expect((await member.data(agentsQuery)).agents).toMatchObject([
      { id: first, isDefault: false, archivedAt: expect.any(String) },
      { id: sales.id, isDefault: true, archivedAt: null },
    ])
  })

  it('refuse what breaks a rule, and name the field', async () => {
    const { api } = await newTenant()
    const foreign = encodeId('Agent', platform.globex.tenant.defaultAgentId ?? '')
    const refused = async (input: CreateAgentInput) => (await api.data(createAgentMutation, { input })).createAgent
    for (const [input, path] of [
      [{ name: '' }, ['name']],
      [{ name: 'x', slug: 'assistant' }, ['slug']],
      [{ name: 'x', branding: { logoUrl: 'http://a.example' } }, ['branding', 'logoUrl']],
      [{ name: 'x', historyExchanges: 101 }, ['historyExchanges']],
    ] as const) {
      expect(await refused(input as CreateAgentInput)).toMatchObject({ __typename: 'ValidationProblem', path })
    }
    const unknown = [foreign, 'nonsense'].map((id) => refused({ name: 'x', handoffAgentIds: [id] }))
    const problem = { __typename: 'NotFound', code: 'NOT_FOUND', message: 'There is no such agent.' }
    expect(await Promise.all(unknown)).toEqual([problem, problem])
  })

  it('show end users how they are presented, and not how they are configured', async () => {
    const { api, user } = await newTenant()
    await update(api, { branding: { name: 'Sam', greeting: 'Hi!' } })
    const { conversationId } = await say(user, 'Hello.')
    const query = 'query ($id: ID!) { conversation(id: $id) { agent { branding { name greeting logoUrl } canary { percent } } } }'
    expect(await user.client.data(query, { id: conversationId })).toEqual({
      conversation: { agent: { branding: { name: 'Sam', greeting: 'Hi!', logoUrl: null }, canary: null } },
    })
  })

  it('are shown by their runs', async () => {
    const { user, tenant } = await newTenant()
    const { runId } = await say(user, 'Hello.')
    const { run } = await user.client.data<{ run: object }>('query ($id: ID!) { run(id: $id) { agent { id } configVersion } }', {
      id: runId,
    })
    expect(run).toEqual({ agent: { id: encodeId('Agent', tenant.defaultAgentId ?? '') }, configVersion: 1 })
  })
})

describe('versions', () => {
  it('are listed, compared, tried on some conversations, and returned to', async () => {
    const { api, member, tenant } = await newTenant()
    const agentId = encodeId('Agent', tenant.defaultAgentId ?? '')
    const sales = await create(api, { name: 'Sales' })
    await update(api, { systemPrompt: 'Two.' })
    const draft = await update(api, { handoffAgentIds: [sales.id], budgetBehaviour: 'PAUSE', publish: false })

    const first = (await member.data(agentConfigVersionsQuery, { first: 2 })).agentConfigVersions
    expect(first.edges.map(({ node }) => [node.version, node.status])).toEqual([
      [3, 'DRAFT'],
      [2, 'PUBLISHED'],
    ])
    const rest = (await member.data(agentConfigVersionsQuery, { agentId, after: first.pageInfo.endCursor })).agentConfigVersions
    expect(rest.edges.map(({ node }) => node.version)).toEqual([1])
    expect((await member.data(agentConfigDiffQuery, { from: 2, to: 3 })).agentConfigDiff).toEqual([
      { field: 'handoffAgentIds', from: '[]', to: JSON.stringify([sales.id]) },
      { field: 'budgetBehaviour', from: 'null', to: '"PAUSE"' },
    ])

    const input = { agentConfigId: draft.id, canaryPercent: 20 }
    const published = (await api.data(publishAgentConfigMutation, { input })).publishAgentConfig
    expect(payload(published, 'PublishAgentConfigPayload').agentConfig).toMatchObject({ version: 3, status: 'PUBLISHED' })
    expect((await member.data(agentsQuery)).agents[0]).toMatchObject({
      ...{ id: agentId, config: { version: 2 }, canary: { percent: 20, config: { version: 3 } } },
    })
    const rolledBack = (await api.data(rollbackAgentConfigMutation, { input: { version: 1 } })).rollbackAgentConfig
    expect(payload(rolledBack, 'RollbackAgentConfigPayload').agentConfig.version).toBe(1)
    expect((await member.data(agentsQuery)).agents[0]).toMatchObject({ config: { version: 1 }, canary: null })
    const unknown = { input: { version: 9 } }
    expect((await api.data(rollbackAgentConfigMutation, unknown)).rollbackAgentConfig.__typename).toBe('NotFound')
    const wrong = { input: { agentConfigId: draft.id, canaryPercent: 0 } }
    expect((await api.data(publishAgentConfigMutation, wrong)).publishAgentConfig).toMatchObject({ path: ['canaryPercent'] })
  })

  it('are told apart by what they did', async () => {
    const { api, member } = await newTenant()
    const { runId } = await say(member, 'Hello.')
    await expect
      .poll(async () => (await member.client.data<{ run: { status: string } }>(`{ run(id: "${runId}") { status } }`)).run.status)
      .toBe('COMPLETED')
    const range = { from: new Date(Date.now() - 3_600_000).toISOString(), to: new Date(Date.now() + 3_600_000).toISOString() }
    expect((await member.data(agentVersionStatsQuery, { range })).agentVersionStats).toMatchObject([
      { version: 1, runs: 1, endedRuns: 1, failedRuns: 0, errorRate: 0, calls: 1, cost: { micros: expect.any(Number) } },
    ])
    const sales = await create(api, { name: 'Sales' })
    expect((await member.data(agentVersionStatsQuery, { agentId: sales.id, range })).agentVersionStats).toEqual([])
  })

  it("are not another tenant's to see", async () => {
    const { member } = await newTenant()
    const foreign = encodeId('Agent', platform.globex.tenant.defaultAgentId ?? '')
    const answers = []
    for (const agentId of [foreign, encodeId('Agent', '00000000-0000-7000-8000-000000000000'), 'nonsense']) {
      answers.push(await member.ask(agentConfigQuery, { agentId }))
      answers.push(await member.ask(agentConfigVersionsQuery, { agentId }))
      answers.push(await member.ask(agentConfigDiffQuery, { agentId, from: 1, to: 1 }))
    }
    expect(answers.map(({ errors }) => errors?.[0]?.extensions?.['code'])).toEqual(answers.map(() => 'NOT_FOUND'))
    expect(new Set(answers.map(({ errors }) => errors?.[0]?.message)).size).toBe(1)
  })
})
