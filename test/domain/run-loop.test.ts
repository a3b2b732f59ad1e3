import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { UsageRecord } from '../../src/data/generated/client.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { messagesByRun } from '../../src/domain/message.ts'
import { ModelError, type Tool } from '../../src/domain/ports.ts'
import { costNanos } from '../../src/domain/pricing.ts'
import { findRun, usageByRun } from '../../src/domain/run.ts'
import { turnsOf } from '../../src/domain/run-turn.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { ask, follow, shownAfter, startWorker } from '../support/run-story.ts'
import { callsTools, failsAfter, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

const plain = { isRepeatable: true, asksFirst: () => false }

const tools: Tool[] = [
  {
    ...plain,
    name: 'shout',
    description: 'Says it louder.',
    parameters: { type: 'object', properties: { text: { type: 'string' } } },
    call: async (args) => String((args as { text: string }).text).toUpperCase(),
  },
  {
    ...plain,
    name: 'fail',
    description: 'Fails.',
    parameters: { type: 'object' },
    call: async () => {
      throw new Error('It broke.')
    },
  },
  {
    ...plain,
    name: 'flood',
    description: 'Says a lot.',
    parameters: { type: 'object' },
    call: async () => '\0'.repeat(10) + '語'.repeat(20_000),
  },
]

let story: Story

beforeAll(async () => {
  story = await startStory({ ports: { tools: { available: async () => tools } } })
})

afterAll(() => story.close())

/** What is stored of a run. */
async function stored(scope: Scope, runId: string) {
  const run = await findRun(scope, runId)
  const reply = (await messagesByRun(scope, [runId])).get(runId)?.reply ?? null
  const records = await scope.db.usageRecord.findMany({ where: { runId }, orderBy: [{ turn: 'asc' }, { attempt: 'asc' }] })
  return { run, reply, records }
}

describe('a run', () => {
  it('streams the reply that it stores, byte for byte, and enters what it used', async () => {
    const model = scriptedModel([says(['Grüß', ' dich', ' 👋\n', 'und', ' ', '\u{10ffff}'], usage(1_000, 6))])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    const { run: after, reply, records } = await stored(member, run.id)

    expect(reply).toMatchObject({ content: 'Grüß dich 👋\nund \u{10ffff}', role: 'ASSISTANT', tokensUsed: 6 })
    expect(Buffer.from(shownAfter(events))).toEqual(Buffer.from(reply?.content ?? ''))
    expect(events.at(-1)).toMatchObject({
      type: 'RunCompleted',
      messageId: reply?.id,
      finishReason: 'STOP',
      usage: usage(1_000, 6),
    })
    expect(after).toMatchObject({ status: 'COMPLETED', finishReason: 'STOP', epoch: 1, failureCode: null })
    expect(after?.finishedAt?.getTime()).toBeGreaterThanOrEqual(after?.startedAt?.getTime() ?? Infinity)
    // gpt-4o-mini: 150 and 600 nano-USD per token.
    expect(records).toMatchObject([{ turn: 0, call: 0, attempt: 1, inputTokens: 1_000, costNanos: 153_600n, currency: 'USD' }])
    const sums = await usageByRun(member, [run.id])
    expect(sums.get(run.id)).toEqual({ ...usage(1_000, 6), costNanos: 153_600n, currency: 'USD' })
  })

  it('sends the configuration, what was said before, and the question', async () => {
    const model = scriptedModel([says('One.'), says('Two.')])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { systemPrompt: 'Be brief.' } })
    const { id } = await createConversation(member, {})
    await follow(member, (await ask(member, 'First?', id)).run.id)
    await follow(member, (await ask(member, 'Second?', id)).run.id)
    await ask(member, 'Elsewhere?')
    expect(model.requests[1]).toEqual({
      model: 'gpt-4o-mini',
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'First?' },
        { role: 'assistant', content: 'One.' },
        { role: 'user', content: 'Second?' },
      ],
      temperature: expect.any(Number),
      maxOutputTokens: expect.any(Number),
      tools: [],
    })
  })

  it.each([
    [{ historyPolicy: 'NONE' as const }, ['3']],
    [{ historyPolicy: 'LAST_EXCHANGES' as const, historyExchanges: 1 }, ['2', 'Yes.', '3']],
    [{ historyPolicy: 'LAST_EXCHANGES' as const, historyExchanges: 9 }, ['1', 'Yes.', '2', 'Yes.', '3']],
    [{ historyPolicy: 'ALL' as const, historyExchanges: 1 }, ['1', 'Yes.', '2', 'Yes.', '3']],
  ])('sends as much of what was said before as %j says', async (agent, told) => {
    const model = scriptedModel([says('Yes.')])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { systemPrompt: '', ...agent } })
    const { id } = await createConversation(member, {})
    for (const question of ['1', '2', '3']) await follow(member, (await ask(member, question, id)).run.id)
    const last = model.requests.find(({ messages }) => messages.at(-1)?.content === '3')
    expect(last?.messages.map(({ content }) => content)).toEqual(told)
  })

  it('leaves out the oldest exchanges when the history does not fit, and never half of one', async () => {
    const long = 'word '.repeat(300)
    const model = scriptedModel([says(long, usage(10, 300))], { contextWindow: 1_024 + 1_300 })
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { systemPrompt: '', maxOutputTokens: 1_024 } })
    const { id } = await createConversation(member, {})
    for (const name of ['a', 'b', 'c', 'd', 'e']) await follow(member, (await ask(member, `${name} ${long}`, id)).run.id)
    const last = model.requests[4]?.messages ?? []
    expect(last.map(({ role, content }) => [role, content[0]])).toEqual([
      ['user', 'd'],
      ['assistant', 'w'],
      ['user', 'e'],
    ])
  })

  it('fails, without a call, when the question alone does not fit', async () => {
    const model = scriptedModel([says('x')], { contextWindow: 1_100 })
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { maxOutputTokens: 1_000 } })
    const { run } = await ask(member, 'word '.repeat(200))
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunFailed', failure: { code: 'CONTEXT_EXCEEDED' } })
    expect(model.requests).toHaveLength(0)
    expect((await stored(member, run.id)).records).toEqual([])
  })

  it('stores what the model may say and Postgres may not', async () => {
    const model = scriptedModel([says(['a\0b', '\ud83d', '\udc4b', '\udc4b', 'end\ud83d'])])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    expect((await stored(member, run.id)).reply?.content).toBe('ab👋\ufffdend\ufffd')
    expect(shownAfter(events)).toBe('ab👋\ufffdend\ufffd')
  })

  it('stores an empty reply when the model says nothing', async () => {
    await using _ = await startWorker(story, { model: scriptedModel([says([])]) })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    expect((await stored(member, run.id)).reply).toMatchObject({ content: '' })
    expect(events.map(({ type }) => type)).toEqual(['RunCompleted'])
  })
})

describe('tools', () => {
  const agent = { enabledTools: ['shout', 'fail', 'flood'] }

  it('are called between turns, and the model is told what came of it', async () => {
    const model = scriptedModel([
      callsTools([{ name: 'shout', arguments: '{"text":"hey"}' }], 'Wait. '),
      says(['It says', ' HEY.'], usage(40, 4)),
    ])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent })
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    expect(events.filter(({ type }) => type !== 'TextDelta')).toMatchObject([
      { type: 'ToolCallStarted', toolCallId: 'call_0', name: 'shout', arguments: '{"text":"hey"}' },
      { type: 'ToolCallFinished', toolCallId: 'call_0', outcome: 'COMPLETED' },
      { type: 'RunCompleted', usage: usage(50, 9) },
    ])
    expect(model.requests[0]?.tools.map(({ name }) => name)).toEqual(['shout', 'fail', 'flood'])
    expect(model.requests[1]?.messages.slice(-2)).toEqual([
      { role: 'assistant', content: 'Wait. ', toolCalls: [{ id: 'call_0', name: 'shout', arguments: '{"text":"hey"}' }] },
      { role: 'tool', toolCallId: 'call_0', content: 'HEY' },
    ])
    const { reply, records, run: after } = await stored(member, run.id)
    expect(reply).toMatchObject({ content: 'Wait. It says HEY.', tokensUsed: 9 })
    expect(shownAfter(events)).toBe('Wait. It says HEY.')
    expect(records.map(({ turn, outputTokens }) => [turn, outputTokens])).toEqual([
      [0, 5],
      [1, 4],
    ])
    expect(after && turnsOf(after).map(({ text }) => text)).toEqual(['Wait. ', 'It says HEY.'])
  })

  it('that fail, are unknown, not enabled or badly called do not end the run', async () => {
    const calls = [
      { name: 'fail', arguments: '' },
      { name: 'flood', arguments: '{}' },
      { name: 'shout', arguments: '{' },
      { name: 'current_time', arguments: '{}' },
    ]
    const model = scriptedModel([callsTools(calls.map((call, index) => ({ ...call, id: `${index}` }))), says('So.')], {
      contextWindow: 100_000,
    })
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent })
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    const outcomes = events.flatMap((event) => (event.type === 'ToolCallFinished' ? [[event.toolCallId, event.outcome]] : []))
    expect(outcomes.sort()).toEqual([
      ['0', 'FAILED'],
      ['1', 'COMPLETED'],
      ['2', 'FAILED'],
      ['3', 'REFUSED'],
    ])
    const results = model.requests[1]?.messages.slice(-4).map(({ content }) => content) ?? []
    expect(results).toEqual(['It broke.', expect.any(String), 'The arguments are not valid JSON.', 'There is no such tool.'])
    expect(results[1]).toMatch(/^語{15990}… \(the rest was cut off\)$/)
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted' })
  })

  it('are not called in the last turn there may be', async () => {
    const model = scriptedModel([callsTools([{ name: 'shout', arguments: '{"text":"again"}' }], 'Again. ')])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant({ agent: { ...agent, maxTurns: 3 } })
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted', finishReason: 'TURNS' })
    expect(events.filter(({ type }) => type === 'ToolCallStarted')).toHaveLength(2)
    const { reply, records } = await stored(member, run.id)
    expect(reply?.content).toBe('Again. Again. Again. ')
    expect(records).toHaveLength(3)
  })
})

describe('failures', () => {
  const away = (retryAfterMs: number | null = 1) =>
    new ModelError('MODEL_UNAVAILABLE', 'The model provider failed.', { retryable: true, retryAfterMs })

  it('that may pass are tried again before the first token', async () => {
    const model = scriptedModel([failsAfter([], away()), failsAfter([], away()), says('Third time lucky.')])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect((await stored(member, run.id)).records).toHaveLength(1)
  })

  it.each([
    ['three times', [failsAfter([], away())], 3],
    ['for good', [failsAfter([], new ModelError('MODEL_UNAVAILABLE', 'No.', { retryable: false }))], 1],
    ['for longer than a run can wait', [failsAfter([], away(60_000))], 1],
  ])('before the first token end the run when they come %s', async (_when, scripts, calls) => {
    const model = scriptedModel(scripts)
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({
      type: 'RunFailed',
      failure: { code: 'MODEL_UNAVAILABLE' },
      usage: usage(0, 0),
    })
    expect(model.requests).toHaveLength(calls)
    const { run: after, reply, records } = await stored(member, run.id)
    expect(after).toMatchObject({ status: 'FAILED', failureCode: 'MODEL_UNAVAILABLE', finishReason: null })
    expect([reply, records]).toEqual([null, []])
  })

  it('after the first token end the run at once; what was said is paid for and no reply', async () => {
    const model = scriptedModel([failsAfter(['Half a '], away())])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const events = await follow(member, run.id)
    expect(events.at(-1)).toMatchObject({ type: 'RunFailed', usage: { outputTokens: 3, estimated: true } })
    expect(shownAfter(events)).toBe('Half a ')
    const { reply, records } = await stored(member, run.id)
    expect(reply).toBeNull()
    expect(records).toMatchObject([{ estimated: true, outputTokens: 3, attempt: 1 }])
    expect(records[0]?.inputTokens).toBeGreaterThan(0)
    expect(records[0]?.costNanos).toBeGreaterThan(0n)
    // Who comes later is shown the same.
    expect(shownAfter(await follow(member, run.id))).toBe('Half a ')
  })

  it('of our own end the run and are reported', async () => {
    await using work = await startWorker(story, { model: scriptedModel([failsAfter(['Oh'], new TypeError('A defect.'))]) })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunFailed', failure: { code: 'INTERNAL' } })
    expect(work.errors.splice(0)).toEqual([new TypeError('A defect.')])
  })

  it('to report usage have it counted', async () => {
    const model = scriptedModel([says('Four words, counted here.', null)])
    await using _ = await startWorker(story, { model })
    const { member } = await story.tenant()
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ usage: { outputTokens: 6, estimated: true } })
    expect((await stored(member, run.id)).reply?.tokensUsed).toBe(6)
  })
})

describe('a model without a price', () => {
  it('is refused before it is called', async () => {
    const model = scriptedModel([says('x')])
    const strict = await startStory({ ceiling: false })
    await using closing = new AsyncDisposableStack()
    closing.defer(() => strict.close())
    closing.use(await startWorker(strict, { model }))
    const { member } = await strict.tenant({ agent: { model: 'gpt-4o' } })
    await asAdmin(strict.database, (client) => client.query('delete from prices'))
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunFailed', failure: { code: 'MODEL_UNPRICED' } })
    expect(model.requests).toHaveLength(0)
  })

  it('is charged at the ceiling where there is one', async () => {
    await using _ = await startWorker(story, { model: scriptedModel([says('x')]) })
    const { member } = await story.tenant({ agent: { model: 'priceless' } })
    const { run } = await ask(member)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    const { records } = await stored(member, run.id)
    const ceiling = await member.db.price.findFirstOrThrow({ where: { model: '*' } })
    const [record] = records
    expect(record).toMatchObject({ priceId: ceiling.id, inputTokens: 10, model: 'priceless' })
    expect(record?.costNanos).toBe(costNanos(record as UsageRecord, ceiling))
  })
})
