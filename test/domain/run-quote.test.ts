import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { quoteRun } from '../../src/domain/run-quote.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { sumUsage } from '../../src/domain/usage.ts'
import { countTokens } from '../../src/llm/token-count.ts'
import { ask, follow, startWorker } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

describe('a quote', () => {
  it('spans what the answer takes in the end, in a conversation too', async () => {
    const { member } = await story.tenant({ agent: { maxOutputTokens: 100, systemPrompt: 'Be short.' } })
    const { id: conversationId } = await createConversation(member, {})
    let inputTokens = 0
    for (const content of ['Hello?', 'And what did I just say?']) {
      const quote = await quoteRun(member, { content, conversationId })
      const text = 'A word or two.'
      await using _ = await startWorker(story, {
        model: scriptedModel([says(text, null)]),
      })
      const { run } = await ask(member, content, conversationId)
      await follow(member, run.id)
      const used = (await sumUsage(member.db, [run.id])).get(run.id)
      expect(quote.leastTokens).toBe(used?.inputTokens)
      expect(quote.mostTokens).toBe(quote.leastTokens + 100)
      expect(quote.leastCostNanos).toBe(BigInt(quote.leastTokens) * 75n)
      expect(quote.mostCostNanos).toBe(BigInt(quote.leastTokens) * 150n + 100n * 600n)
      expect(used?.costNanos).toBeGreaterThan(quote.leastCostNanos)
      expect(used?.costNanos).toBeLessThan(quote.mostCostNanos)
      expect(quote.leastTokens).toBeGreaterThan(inputTokens + countTokens(content))
      inputTokens = quote.leastTokens
    }
  })

  it('counts all the calls that an agent with tools may make, and the dearer of two models', async () => {
    const { admin } = await story.tenant({ agent: { maxOutputTokens: 100, maxTurns: 3 } })
    const content = 'What time is it?'
    const { leastTokens, mostTokens } = await quoteRun(admin, { content })
    expect(mostTokens).toBe(leastTokens + 100)
    await updateAgentConfig(admin, { enabledTools: ['current_time'] })
    const withTools = await quoteRun(admin, { content })
    expect(withTools.leastTokens).toBeGreaterThan(leastTokens)
    expect(withTools.mostTokens).toBe(withTools.leastTokens + 2 * (128_000 - 100) + 3 * 100)
    await updateTenantSettings(admin, { downgradeModel: 'gpt-4.1-nano' })
    const { admin: again } = { admin: { ...admin, tenant: { ...admin.tenant, downgradeModel: 'gpt-4.1-nano' } } }
    const either = await quoteRun(again, { content })
    expect(either).toMatchObject({ model: 'gpt-4o-mini', downgradeModel: 'gpt-4.1-nano', leastTokens: withTools.leastTokens })
    expect(either.leastCostNanos).toBe(BigInt(withTools.leastTokens) * 25n)
    expect(either.mostCostNanos).toBeGreaterThanOrEqual(withTools.mostCostNanos)
  })

  it('is for staff, of what is there, and of what could be sent', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const { id: conversationId } = await createConversation(globex.member, {})
    await expect(quoteRun(acme.endUser, { content: 'x' })).rejects.toThrow(Forbidden)
    await expect(quoteRun(acme.member, { content: 'x', conversationId })).rejects.toThrow(NotFound)
    await expect(quoteRun(acme.member, { content: 'x', agentId: globex.tenant.defaultAgentId })).rejects.toThrow(NotFound)
    await expect(quoteRun(acme.member, { content: 'x', conversationId: newId() })).rejects.toThrow(NotFound)
    await expect(quoteRun(acme.member, { content: '' })).rejects.toThrow(ValidationProblem)
  })
})
