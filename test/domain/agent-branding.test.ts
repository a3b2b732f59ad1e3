import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { brandingByAgent, brandingOf, checkBranding } from '../../src/domain/agent-branding.ts'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})
afterAll(() => story.close())

const whole = {
  name: 'Grüße 🦆',
  primaryColor: '#0a7f5c',
  backgroundColor: '#ffffff',
  logoUrl: 'https://cdn.example.com/logo.svg?v=2',
  greeting: 'Hello!\nHow can I help?',
}

describe('a branding', () => {
  test('holds what is set of it', () => {
    expect(checkBranding(whole)).toEqual(whole)
    expect(checkBranding({ name: null, primaryColor: '#ABCDEF' })).toEqual({ primaryColor: '#abcdef' })
    expect(checkBranding({})).toEqual({})
  })

  test.each([
    ['name', ['', 'a\nb', 'x'.repeat(101)]],
    ['primaryColor', ['red', '#fff', '#12345g', '#1234567', 'url(x)']],
    ['backgroundColor', ['', '#0a7f5c;']],
    [
      'logoUrl',
      ['http://a.example/', 'javascript:alert(1)', '//a.example/', 'data:image/png;base64,AA', 'https://u:p@a.example/', ''],
    ],
    ['greeting', [' ', 'a\0', 'x'.repeat(2_001)]],
  ])('refuses %s that break its rules', (field, values) => {
    for (const value of values) {
      try {
        checkBranding({ [field]: value })
      } catch (error) {
        expect(error).toBeInstanceOf(ValidationProblem)
        expect((error as ValidationProblem).path).toEqual(['branding', field])
        continue
      }
      throw new Error(`${value} was accepted.`)
    }
  })

  test('passes over what was stored before it had fields', () => {
    expect(brandingOf({ branding: { colour: 'red', name: 'Ann', greeting: 7 } })).toEqual({ name: 'Ann' })
  })

  test('is seen by end users, as the active version has it', async () => {
    const { admin, endUser, tenant } = await story.tenant({ agent: { branding: { greeting: 'Hi!' } } })
    const foreign = (await story.tenant()).tenant.defaultAgentId ?? ''
    const agentId = tenant.defaultAgentId ?? ''
    const seen = () => brandingByAgent(endUser, [agentId, foreign, newId(), 'nonsense'])
    expect([...(await seen())]).toEqual([[agentId, { greeting: 'Hi!' }]])
    await updateAgentConfig(admin, { branding: { name: 'Draft' }, publish: false })
    expect((await seen()).get(agentId)).toEqual({ greeting: 'Hi!' })
    await updateAgentConfig(admin, { branding: { name: 'Ann' } })
    expect((await seen()).get(agentId)).toEqual({ name: 'Ann' })
  })
})
