import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { agentReplySubscription } from '../operations/agent-reply.ts'
import { conversationQuery } from '../operations/conversation.ts'
import { sendMessageMutation } from '../operations/message.ts'
import { cancelRunMutation, runQuery, runsQuery } from '../operations/run.ts'
import type { Api } from '../support/api.ts'
import { begin, payload, say } from '../support/conversing.ts'
import { fails, says, stallsAfter, type UpstreamScript } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.member)
})

afterAll(() => platform.stop())

type Event = Awaited<ReturnType<ReturnType<typeof follow>['next']>>['value']

function follow(runId: string, after?: string) {
  return platform.api(platform.acme.keys.member).follow(agentReplySubscription, { runId, after })
}

/** Says `content`, a different text in each test, and has the model answer it by `script`. */
function answered(content: string, script: UpstreamScript) {
  platform.upstream.when(({ lastMessage }) => lastMessage === content, script)
  return say(api, content)
}

async function eventsOf(runId: string, after?: string) {
  const events: NonNullable<Event>['agentReply'][] = []
  for await (const { agentReply } of follow(runId, after)) events.push(agentReply)
  return events
}

describe('a message', () => {
  it('is answered: the stream, the run, the conversation and the bill agree', async () => {
    const usage = { input: 100, output: 7, cached: 40, reasoning: 2 }
    const { conversationId, runId } = await answered('How are you?', says('I am well, thank you.', { usage }))
    const events = await eventsOf(runId)
    const text = events.map((event) => (event.__typename === 'TextDelta' ? event.text : '')).join('')
    expect(text).toBe('I am well, thank you.')
    expect(events.at(-1)).toMatchObject({ __typename: 'RunCompleted', finishReason: 'STOP', message: { content: text } })

    const { run } = await api.data(runQuery, { id: runId })
    expect(run).toMatchObject({
      id: runId,
      status: 'COMPLETED',
      configVersion: 1,
      model: 'gpt-4o-mini',
      conversation: { id: conversationId },
      userMessage: { content: 'How are you?' },
      reply: { content: text },
      usage: { inputTokens: 100, cachedInputTokens: 40, outputTokens: 7, reasoningTokens: 2, totalTokens: 107, estimated: false },
      // 60 × 150 + 40 × 75 + 7 × 600 nano-dollars.
      cost: { micros: 16, currency: 'USD', formatted: '$0.000016' },
      failure: null,
    })
    const times = [run?.createdAt, run?.startedAt, run?.finishedAt]
    expect(times.every((time) => /^\d{4}-\d\d-\d\dT.*Z$/.test(String(time)))).toBe(true)

    const { conversation } = await api.data(conversationQuery, { id: conversationId })
    expect(conversation?.messages.edges.map(({ node }) => [node.role, node.content, node.run?.id])).toEqual([
      ['USER', 'How are you?', runId],
      ['ASSISTANT', text, runId],
    ])
    expect(conversation?.runs.edges.map(({ node }) => node)).toEqual([{ id: runId, status: 'COMPLETED' }])
  })

  it.each([
    ['empty', ''],
    ['blank', ' \n '],
    ['a megabyte', 'x'.repeat(1_000_000)],
    ['made of control characters', 'a\u0007b'],
    ['not proper Unicode', 'half: \udc00'],
  ])('is refused when it is %s, and nothing runs', async (_what, content) => {
    const conversationId = await begin(api)
    const { sendMessage } = await api.data(sendMessageMutation, { input: { conversationId, content } })
    expect(sendMessage).toMatchObject({ __typename: 'ValidationProblem', code: 'VALIDATION', path: ['content'] })
    const { conversation } = await api.data(conversationQuery, { id: conversationId })
    expect(conversation).toMatchObject({ messages: { edges: [] }, runs: { edges: [] } })
  })

  it('is sent once for one idempotency key', async () => {
    const conversationId = await begin(api)
    const send = () => api.data(sendMessageMutation, { input: { conversationId, content: 'Once.', idempotencyKey: 'k1' } })
    const [first, second] = [await send(), await send()]
    const idsOf = ({ sendMessage }: typeof first) => {
      const { run, userMessage } = payload(sendMessage, 'SendMessagePayload')
      return [run.id, userMessage.id]
    }
    expect(idsOf(second)).toEqual(idsOf(first))
  })
})

describe('agentReply', () => {
  it('goes on after a cursor, without gap or duplicate', async () => {
    const { runId } = await answered('Count.', says('one two three four five six'))
    const all = await eventsOf(runId)
    for (const [index, event] of all.entries()) {
      expect(await eventsOf(runId, event.cursor)).toEqual(all.slice(index + 1))
    }
  })

  it('says why a run failed', async () => {
    const { runId } = await answered('Hello?', fails(401))
    expect((await eventsOf(runId)).at(-1)).toMatchObject({ __typename: 'RunFailed', failure: { code: 'MODEL_REFUSED' } })
    expect((await api.data(runQuery, { id: runId })).run).toMatchObject({
      status: 'FAILED',
      reply: null,
      failure: { code: 'MODEL_REFUSED' },
    })
  })

  it.each(['nonsense', '1', '1-', '-1-1', '1-1-1'])('refuses the cursor %s', async (after) => {
    const { runId } = await say(api, 'Hello.')
    await expect(eventsOf(runId, after)).rejects.toThrow('BAD_USER_INPUT')
  })
})

describe('cancelRun', () => {
  it('ends the run with what was written, and once', async () => {
    const { runId } = await answered('A story, please.', stallsAfter('Once upon a time'))
    const events = follow(runId)
    expect((await events.next()).value?.agentReply).toMatchObject({ __typename: 'TextDelta', text: 'Once upon a time' })
    const { cancelRun } = await api.data(cancelRunMutation, { input: { runId } })
    expect(payload(cancelRun, 'CancelRunPayload').run.id).toBe(runId)
    expect((await events.next()).value?.agentReply).toMatchObject({ __typename: 'RunCancelled', text: 'Once upon a time' })
    expect((await events.next()).done).toBe(true)
    expect((await api.data(runQuery, { id: runId })).run?.status).toBe('CANCELLED')
    const again = await api.data(cancelRunMutation, { input: { runId } })
    expect(again.cancelRun.__typename).toBe('CancelRunPayload')
  })
})

describe('sendMessage to a busy conversation', () => {
  it('is refused, or interrupts, as it is told', async () => {
    const { conversationId, runId } = await answered('Another story, please.', stallsAfter('Once more'))
    const events = follow(runId)
    expect((await events.next()).value?.agentReply).toMatchObject({ __typename: 'TextDelta', text: 'Once more' })
    const input = { conversationId, content: 'Never mind.' }
    const refused = await api.data(sendMessageMutation, { input: { ...input, whenBusy: 'REJECT' } })
    expect(refused.sendMessage).toMatchObject({ __typename: 'Conflict', code: 'CONFLICT' })
    const sent = await api.data(sendMessageMutation, { input: { ...input, whenBusy: 'INTERRUPT' } })
    expect((await events.next()).value?.agentReply).toMatchObject({ __typename: 'RunInterrupted', text: 'Once more' })
    expect((await api.data(runQuery, { id: runId })).run).toMatchObject({
      ...{ status: 'INTERRUPTED', reply: { content: 'Once more' }, failure: { code: 'SUPERSEDED' } },
    })
    const { run } = payload(sent.sendMessage, 'SendMessagePayload')
    expect((await eventsOf(run.id)).at(-1)?.__typename).toBe('RunCompleted')
  })
})

describe('runs', () => {
  it('are filtered by status and conversation', async () => {
    const { conversationId, runId } = await say(api, 'Hello.')
    await eventsOf(runId)
    const list = async (filter: object) => {
      const { runs } = await api.data(runsQuery, { first: 10, filter } as never)
      return runs.edges.map(({ node }) => node.id)
    }
    expect(await list({ conversationId })).toEqual([runId])
    expect(await list({ conversationId, status: 'COMPLETED' })).toEqual([runId])
    expect(await list({ conversationId, status: 'FAILED' })).toEqual([])
  })
})
