import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import type { UpdateAgentConfigInput } from '../generated/graphql.ts'
import { agentQuery, agentsQuery } from '../operations/agent.ts'
import { agentConfigQuery, updateAgentConfigMutation } from '../operations/agent-config.ts'
import type { Api } from '../support/api.ts'
import { payload } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.admin)
})

afterAll(() => platform.stop())

async function active() {
  return (await api.data(agentConfigQuery, { agentId: null })).agentConfig
}

async function update(input: UpdateAgentConfigInput) {
  return (await api.data(updateAgentConfigMutation, { input })).updateAgentConfig
}

describe('an agent', () => {
  it('is listed with its configuration', async () => {
    const { agents } = await api.data(agentsQuery)
    expect(agents).toEqual([
      {
        id: encodeId('Agent', platform.acme.tenant.defaultAgentId ?? ''),
        slug: 'assistant',
        name: expect.stringContaining('Assistant'),
        isDefault: true,
        createdAt: expect.any(String),
        archivedAt: null,
        config: { version: 1, status: 'PUBLISHED', systemPrompt: `You work for ${platform.acme.tenant.name}.` },
        canary: null,
      },
    ])
    const id = agents[0]?.id ?? ''
    expect((await api.data(agentQuery, { id })).agent).toEqual({ id, name: agents[0]?.name })
  })
})

describe('a configuration', () => {
  it('is published as a new version that keeps what was not named', async () => {
    const before = await active()
    const published = payload(
      await update({ temperature: 0.25, branding: { primaryColor: '#0A7F5C', greeting: 'Hi!' } }),
      'UpdateAgentConfigPayload',
    ).agentConfig
    expect(published).toMatchObject({ version: before.version + 1, status: 'PUBLISHED', temperature: 0.25 })
    const after = await active()
    expect(after).toEqual({
      ...before,
      id: published.id,
      version: published.version,
      temperature: 0.25,
      branding: { name: null, primaryColor: '#0a7f5c', backgroundColor: null, logoUrl: null, greeting: 'Hi!' },
      publishedAt: published.publishedAt,
    })
    expect(after.id).not.toBe(before.id)
  })

  it('is left a draft that nothing uses when it is not to be published', async () => {
    const before = await active()
    const draft = payload(await update({ systemPrompt: 'Draft.', publish: false }), 'UpdateAgentConfigPayload').agentConfig
    expect(draft).toMatchObject({ status: 'DRAFT', systemPrompt: 'Draft.', publishedAt: null })
    expect(await active()).toEqual(before)
  })

  it.each([
    [{ temperature: 2.1 }, 'temperature'],
    [{ maxTurns: 0 }, 'maxTurns'],
    [{ maxOutputTokens: 128_001 }, 'maxOutputTokens'],
    [{ systemPrompt: 'x'.repeat(1_000_000) }, 'systemPrompt'],
    [{ enabledTools: ['launch_rockets'] }, 'enabledTools'],
  ])('refuses %j', async (input, path) => {
    const before = await active()
    expect(await update(input)).toMatchObject({ __typename: 'ValidationProblem', path: expect.arrayContaining([path]) })
    expect(await active()).toEqual(before)
  })
})
