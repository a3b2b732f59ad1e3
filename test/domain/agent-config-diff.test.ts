import { afterAll, beforeAll, expect, test } from 'vitest'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { diffAgentConfigs } from '../../src/domain/agent-config-diff.ts'
import { Forbidden, NotFound } from '../../src/domain/errors.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant({ agent: { systemPrompt: 'Be brief.', budgetBehaviour: 'END' } })
})
afterAll(() => story.close())

test('tells what changed and nothing else, in both directions, also of a draft', async () => {
  await updateAgentConfig(acme.admin, { systemPrompt: 'Be kind.', temperature: 0.1, fallbackModels: ['gpt-4o'] })
  await updateAgentConfig(acme.admin, { branding: { name: 'Ann' }, budgetBehaviour: null, publish: false })
  expect(await diffAgentConfigs(acme.member, { from: 1, to: 2 })).toEqual([
    { field: 'systemPrompt', from: 'Be brief.', to: 'Be kind.' },
    { field: 'fallbackModels', from: [], to: ['gpt-4o'] },
    { field: 'temperature', from: 0.7, to: 0.1 },
  ])
  expect(await diffAgentConfigs(acme.member, { from: 3, to: 2 })).toEqual([
    { field: 'branding', from: { name: 'Ann' }, to: {} },
    { field: 'budgetBehaviour', from: null, to: 'END' },
  ])
  expect(await diffAgentConfigs(acme.member, { from: 2, to: 2 })).toEqual([])
})

test('finds no version that is not there, none of another tenant, and is not for end users', async () => {
  const globex = await story.tenant()
  await expect(diffAgentConfigs(acme.member, { from: 1, to: 9 })).rejects.toThrow(NotFound)
  const agentId = acme.tenant.defaultAgentId
  await expect(diffAgentConfigs(globex.member, { agentId, from: 1, to: 1 })).rejects.toThrow(NotFound)
  await expect(diffAgentConfigs(acme.endUser, { from: 1, to: 1 })).rejects.toThrow(Forbidden)
})
