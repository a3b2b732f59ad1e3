import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/data/generated/client.ts'
import { archiveAgent, createAgent } from '../../src/domain/agent.ts'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { publishAgentConfig } from '../../src/domain/agent-release.ts'
import { createConversation, findConversation } from '../../src/domain/conversation.ts'
import { NotFound } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { sendMessage } from '../../src/domain/message.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { ask, follow, startWorker, until } from '../support/run-story.ts'
import { callsTools, hangsAfter, type ModelScript, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})
afterAll(() => story.close())

const handsOver = (slug: string, text = '') => callsTools([{ name: `hand_over_to_${slug}`, arguments: '{}' }], text)

/** A tenant whose default agent may hand over to Sales, and Sales back to it. */
async function twoAgents(options: Parameters<Story['tenant']>[0] = {}): Promise<TenantStory & { desk: string; sales: Agent }> {
  const agent = { systemPrompt: 'You are the desk.', model: 'gpt-4o-mini', ...options.agent }
  const tenant = await story.tenant({ ...options, agent })
  const desk = tenant.tenant.defaultAgentId ?? ''
  const sales = await createAgent(tenant.admin, {
    ...{ name: 'Sales', systemPrompt: 'You sell.', model: 'gpt-4o', maxTurns: 30, enabledTools: ['current_time'] },
    handoffAgentIds: [desk],
  })
  await updateAgentConfig(tenant.admin, { handoffAgentIds: [sales.id] })
  return { ...tenant, desk, sales }
}

const toolNames = (request: { tools: readonly { name: string }[] } | undefined) => request?.tools.map(({ name }) => name)

describe('a run that its agent hands over', () => {
  test('is gone on with by the other one, whose conversation it is from then on', async () => {
    const model = scriptedModel([handsOver('sales', 'One moment. '), says('Buy this.'), says('And that.')])
    await using _ = await startWorker(story, { model })
    const { member, desk, sales } = await twoAgents()
    const { run } = await ask(member, 'What does it cost?')
    const events = await follow(member, run.id)
    expect(events.map(({ type }) => type)).toEqual(
      expect.arrayContaining(['ToolCallStarted', 'ToolCallFinished', 'RunCompleted']),
    )

    const [first, second] = model.requests
    expect([first?.model, second?.model]).toEqual(['gpt-4o-mini', 'gpt-4o'])
    expect([first?.messages[0]?.content, second?.messages[0]?.content]).toEqual(['You are the desk.', 'You sell.'])
    expect([toolNames(first), toolNames(second)]).toEqual([['hand_over_to_sales'], ['hand_over_to_assistant', 'current_time']])
    expect(second?.messages.slice(1)).toMatchObject([
      { role: 'user', content: 'What does it cost?' },
      { role: 'assistant', content: 'One moment. ', toolCalls: [{ name: 'hand_over_to_sales' }] },
      { role: 'tool', content: 'The conversation was handed over to Sales.' },
    ])
    expect(await findRun(member, run.id)).toMatchObject({ agentId: sales.id, configVersion: 1, model: 'gpt-4o' })
    const records = await member.db.usageRecord.findMany({ where: { runId: run.id }, orderBy: { turn: 'asc' } })
    expect(records).toMatchObject([
      { turn: 0, agentId: desk, configVersion: 2, model: 'gpt-4o-mini' },
      { turn: 1, agentId: sales.id, configVersion: 1, model: 'gpt-4o' },
    ])
    expect(await findConversation(member, run.conversationId)).toMatchObject({ agentId: sales.id })

    const next = await ask(member, 'And else?', run.conversationId)
    await follow(member, next.run.id)
    expect(model.requests[2]?.messages.map(({ content }) => content)).toEqual([
      ...['You sell.', 'What does it cost?', 'One moment. Buy this.', 'And else?'],
    ])
  })

  test('goes to the first of several, and the others are told so', async () => {
    const both = callsTools([
      { name: 'hand_over_to_sales', arguments: '{"reason":"They want to buy."}' },
      { name: 'hand_over_to_repairs', arguments: '{}' },
    ])
    const model = scriptedModel([both, says('Hello.')])
    await using _ = await startWorker(story, { model })
    const { admin, member, sales } = await twoAgents()
    const repairs = await createAgent(admin, { name: 'Repairs' })
    await updateAgentConfig(admin, { handoffAgentIds: [sales.id, repairs.id] })
    const { run } = await ask(member)
    await follow(member, run.id)
    expect(await findRun(member, run.id)).toMatchObject({ agentId: sales.id, status: 'COMPLETED' })
    expect(model.requests[1]?.messages.slice(-2)).toMatchObject([
      { content: 'The conversation was handed over to Sales.' },
      { content: 'The conversation was handed over to another agent already.' },
    ])
  })

  test('ends with the turns of the agent that began, however often it goes back and forth', async () => {
    const backAndForth: ModelScript = async function* (request, signal) {
      yield* handsOver(request.messages[0]?.content === 'You sell.' ? 'assistant' : 'sales')(request, signal)
    }
    const model = scriptedModel([backAndForth])
    await using _ = await startWorker(story, { model })
    const { member, desk } = await twoAgents({ agent: { maxTurns: 5 } })
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted', finishReason: 'TURNS' })
    expect(model.requests).toHaveLength(5)
    expect(await findRun(member, run.id)).toMatchObject({ agentId: desk })
  })

  test('is taken up again by the one that it was handed to, within the same bound', async () => {
    const { member, desk, sales } = await twoAgents({ agent: { maxTurns: 3 } })
    const { run } = await ask(member)
    {
      const cutOff = scriptedModel([handsOver('sales'), hangsAfter(['Half of'])])
      await using _ = await startWorker(story, { model: cutOff })
      await until(() => cutOff.requests.length === 2)
    }
    expect(await findRun(member, run.id)).toMatchObject({ status: 'QUEUED', agentId: sales.id, model: 'gpt-4o' })
    const model = scriptedModel([callsTools([{ name: 'current_time', arguments: '{}' }]), says('No more.')])
    await using _ = await startWorker(story, { model })
    await follow(member, run.id)
    expect(model.requests).toHaveLength(2)
    expect(model.requests[0]).toMatchObject({ model: 'gpt-4o', messages: [{ content: 'You sell.' }, {}, {}, {}] })
    const records = await member.db.usageRecord.findMany({
      where: { runId: run.id },
      orderBy: [{ turn: 'asc' }, { attempt: 'asc' }],
    })
    expect(records.map(({ turn, attempt, agentId }) => [turn, attempt, agentId])).toEqual([
      [0, 1, desk],
      [1, 1, sales.id],
      [1, 2, sales.id],
      [2, 2, sales.id],
    ])
  })

  test('pins the canary of the other agent where a run of the conversation would', async () => {
    const model = scriptedModel([handsOver('sales'), says('Yes.')])
    await using _ = await startWorker(story, { model })
    const { admin, member, sales } = await twoAgents()
    const draft = await updateAgentConfig(admin, { agentId: sales.id, systemPrompt: 'You sell more.', publish: false })
    await publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 99 })
    const first = await ask(member)
    await follow(member, first.run.id)
    const pinned = (await findRun(member, first.run.id))?.configVersion
    const second = await ask(member, 'Again?', first.run.conversationId)
    await follow(member, second.run.id)
    expect((await findRun(member, second.run.id))?.configVersion).toBe(pinned)
    expect(model.requests[1]?.messages[0]?.content).toBe(pinned === 2 ? 'You sell more.' : 'You sell.')
  })

  test('takes what waits behind it along, and what is sent at that moment is not refused', async () => {
    const { member, endUser, sales } = await twoAgents()
    for (let round = 0; round < 8; round++) {
      const gate = Promise.withResolvers<void>()
      const script: ModelScript = async function* (request, signal) {
        await gate.promise
        yield* handsOver('sales')(request, signal)
      }
      await using _ = await startWorker(story, { model: scriptedModel([script, says('Yes.')]) })
      const scope = round % 2 === 0 ? member : endUser
      const { id: conversationId } = await createConversation(scope, {})
      const { run } = await sendMessage(scope, { conversationId, content: 'One.' })
      await until(async () => (await findRun(scope, run.id))?.status === 'RUNNING')
      const waiting = await sendMessage(scope, { conversationId, content: 'Two.' })
      gate.resolve()
      const late = await Promise.all([1, 2, 3].map(() => sendMessage(scope, { conversationId, content: 'Three.' })))
      for (const sent of [waiting, ...late]) {
        await follow(scope, sent.run.id)
        expect(await findRun(scope, sent.run.id)).toMatchObject({ agentId: sales.id, status: 'COMPLETED', model: 'gpt-4o' })
      }
    }
  }, 30_000)
})

test('a message that waited for the conversation while it was handed over is for the other agent', async () => {
  const { member, sales } = await twoAgents()
  const { id: conversationId } = await createConversation(member, {})
  const gate = Promise.withResolvers<void>()
  const holding = Promise.withResolvers<void>()
  const handingOver = member.db.$transaction(async (tx) => {
    await tx.conversation.updateMany({ where: { id: conversationId }, data: { agentId: sales.id } })
    holding.resolve()
    await gate.promise
  })
  await holding.promise
  const sending = sendMessage(member, { conversationId, content: 'Hello?' })
  // Until it waits for the lock.
  await new Promise((resolve) => setTimeout(resolve, 300))
  gate.resolve()
  await handingOver
  const { run } = await sending
  expect(run).toMatchObject({ agentId: sales.id, model: 'gpt-4o' })
  await cancelRun(member, { runId: run.id })
})

describe('a handoff', () => {
  test('is not offered to an archived agent, nor by an agent whose configuration does not list it', async () => {
    const model = scriptedModel([says('Yes.')])
    await using _ = await startWorker(story, { model })
    const { admin, member, sales } = await twoAgents()
    await follow(member, (await ask(member)).run.id)
    await archiveAgent(admin, { agentId: sales.id })
    await follow(member, (await ask(member)).run.id)
    await updateAgentConfig(admin, { handoffAgentIds: [] })
    await follow(member, (await ask(member)).run.id)
    expect(model.requests.map(toolNames)).toEqual([['hand_over_to_sales'], [], []])
  })

  test('leads to another agent of the tenant that is in use, and to nobody else', async () => {
    const { admin, desk, sales } = await twoAgents()
    const foreign = (await story.tenant()).tenant.defaultAgentId ?? ''
    const archived = await createAgent(admin, { name: 'Old' })
    await archiveAgent(admin, { agentId: archived.id })
    for (const id of [foreign, newId(), 'nonsense']) {
      await expect(updateAgentConfig(admin, { handoffAgentIds: [sales.id, id] })).rejects.toThrow(new NotFound('agent'))
    }
    for (const handoffAgentIds of [[desk], [sales.id, sales.id], [archived.id]]) {
      await expect(updateAgentConfig(admin, { handoffAgentIds })).rejects.toMatchObject({ path: ['handoffAgentIds'] })
    }
  })
})
