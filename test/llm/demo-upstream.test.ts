import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Model, ModelEvent, ModelMessage, ModelRequest } from '../../src/domain/ports.ts'
import { type DemoUpstream, startDemoUpstream } from '../../src/llm/demo-upstream.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import { countTokens } from '../../src/llm/token-count.ts'

let demo: DemoUpstream
let model: Model

beforeEach(async () => {
  demo = await startDemoUpstream({ delayMs: 0 })
  model = createOpenAiModel({ baseUrl: demo.url, apiKey: 'any' })
})

afterEach(() => demo.close())

const acme: ModelMessage = { role: 'system', content: "You are Acme's assistant.\nNever say so." }

function user(content: string): ModelMessage {
  return { role: 'user', content }
}

async function ask(messages: ModelMessage[], request: Partial<ModelRequest> = {}) {
  const events: ModelEvent[] = []
  const full = { model: 'bulkhead-demo', messages, temperature: 1, maxOutputTokens: 500, tools: [], ...request }
  for await (const event of model.stream(full, new AbortController().signal)) events.push(event)
  return { events, text: events.map((event) => (event.type === 'text' ? event.text : '')).join('') }
}

function post(body: unknown, headers: Record<string, string> = { authorization: 'Bearer any' }) {
  return fetch(`${demo.url}/chat/completions`, {
    method: 'POST',
    headers,
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

describe('an answer', () => {
  test('is labelled and depends on the instructions and on what was said', async () => {
    const { text } = await ask([acme, user('Where is my parcel?')])
    expect(text).toMatch(/^\[scripted demo\] /)
    expect(text).toContain('"You are Acme\'s assistant."')
    expect(text).not.toContain('Never say so')
    expect(text).toContain('You said "Where is my parcel?" (message 1 of this conversation).')
  })

  test('shows that it was sent the history', async () => {
    const { text } = await ask([acme, user('I am Ann.'), { role: 'assistant', content: 'Hi.' }, user('Who am I?')])
    expect(text).toContain('You said "Who am I?" (message 2 of this conversation). Before that you said "I am Ann.".')
  })

  test('quotes no more than the beginning of a long message, and cuts no character', async () => {
    const { text } = await ask([user('👩'.repeat(5000))])
    expect(text).toContain(`"${'👩'.repeat(79)}…"`)
  })

  test('comes in many pieces, with usage that the tokenizer agrees with', async () => {
    const { events, text } = await ask([acme, user('Hello')])
    expect(events.filter((event) => event.type === 'text').length).toBeGreaterThan(10)
    const usage = events.find((event) => event.type === 'usage')?.usage
    expect(usage).toMatchObject({ inputTokens: 9 + countTokens(acme.content) + countTokens('Hello'), cachedInputTokens: 0 })
    expect(Math.abs((usage?.outputTokens ?? 0) - countTokens(text))).toBeLessThanOrEqual(1)
    expect(events.at(-1)).toEqual({ type: 'finish', reason: 'STOP' })
  })

  test('stops at the bound on output tokens', async () => {
    const { events, text } = await ask([acme, user('Please count to 100')], { maxOutputTokens: 20 })
    expect(text).toMatch(/^\[scripted demo\] 1 2 3/)
    expect(text).not.toContain('20')
    expect(countTokens(text)).toBeLessThanOrEqual(20)
    expect(events.at(-1)).toEqual({ type: 'finish', reason: 'LENGTH' })
  })

  test('takes its time', async () => {
    const slow = await startDemoUpstream({ delayMs: 10 })
    model = createOpenAiModel({ baseUrl: slow.url, apiKey: 'any' })
    const started = performance.now()
    await ask([user('count to 20')])
    expect(performance.now() - started).toBeGreaterThan(200)
    await slow.close()
  })
})

describe('asked for the time', () => {
  const tools = [{ name: 'current_time', description: 'The time.', parameters: {} }]

  test('it calls the tool, then tells what the tool answered', async () => {
    const question = user('What time is it in Europe/Paris?')
    const { events } = await ask([acme, question], { tools })
    const call = events.find((event) => event.type === 'toolCall')?.call
    expect(call).toMatchObject({ name: 'current_time', arguments: '{"timeZone":"Europe/Paris"}' })
    expect(events.at(-1)).toEqual({ type: 'finish', reason: 'TOOL_CALLS' })
    if (!call) return expect.unreachable()

    const { text } = await ask(
      [
        acme,
        question,
        { role: 'assistant', content: '', toolCalls: [call] },
        { role: 'tool', toolCallId: call.id, content: 'Noon' },
      ],
      { tools },
    )
    expect(text).toBe('[scripted demo] The tool answered: Noon')
  })

  test('it does not call a tool that was not offered', async () => {
    const others = [{ name: 'weather', description: 'The weather.', parameters: {} }]
    for (const offered of [[], others]) {
      const { events } = await ask([user('What time is it?')], { tools: offered })
      expect(events.at(-1)).toEqual({ type: 'finish', reason: 'STOP' })
    }
  })
})

describe('the protocol', () => {
  const body = { model: 'bulkhead-demo', messages: [{ role: 'user', content: 'Hello' }] }

  test('streams events as OpenAI does, the usage last and only on request', async () => {
    const response = await post({ ...body, stream: true, stream_options: { include_usage: true } })
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/)
    const events = (await response.text()).trim().split('\n\n')
    expect(events.pop()).toBe('data: [DONE]')
    const chunks = events.map((event) => JSON.parse(event.slice('data: '.length)))
    expect(chunks[0]).toMatchObject({ object: 'chat.completion.chunk', choices: [{ delta: { role: 'assistant' } }], usage: null })
    expect(chunks.at(-2)).toMatchObject({ choices: [{ delta: {}, finish_reason: 'stop' }] })
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 7 } })
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1)

    expect(await (await post({ ...body, stream: true })).text()).not.toContain('usage')
  })

  test('answers whole without streaming', async () => {
    expect(await (await post(body)).json()).toMatchObject({
      object: 'chat.completion',
      choices: [{ message: { role: 'assistant', content: expect.stringMatching(/^\[scripted demo\] /) }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 7 },
    })
  })

  test('lists its model', async () => {
    const response = await fetch(`${demo.url}/models`, { headers: { authorization: 'Bearer any' } })
    expect(await response.json()).toMatchObject({ object: 'list', data: [{ id: 'bulkhead-demo', object: 'model' }] })
  })

  test.each([
    ['no key', 401, body, {}],
    ['an empty key', 401, body, { authorization: 'Bearer ' }],
    ['no JSON', 400, '{', undefined],
    ['no messages', 400, { model: 'bulkhead-demo', messages: [] }, undefined],
    ['an unknown role', 400, { model: 'bulkhead-demo', messages: [{ role: 'king', content: '' }] }, undefined],
    ['too much', 413, ' '.repeat(17 * 1_048_576), undefined],
  ])('answers %s with HTTP %i', async (_what, status, sent, headers) => {
    const response = await post(sent, headers)
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({ error: { message: expect.any(String) } })
  })

  test('answers another path with HTTP 404', async () => {
    const response = await fetch(`${demo.url}/embeddings`, { method: 'POST', headers: { authorization: 'Bearer any' } })
    expect(response.status).toBe(404)
    await response.text()
  })
})

test('closing ends open streams, and a client that leaves does no harm', async () => {
  const slow = await startDemoUpstream({ delayMs: 20 })
  model = createOpenAiModel({ baseUrl: slow.url, apiKey: 'any' })
  const request = { model: 'bulkhead-demo', messages: [user('count to 1000')], temperature: 1, maxOutputTokens: 5000, tools: [] }
  for await (const _event of model.stream(request, new AbortController().signal)) break
  let closed: Promise<void> | null = null
  const open = async () => {
    for await (const _event of model.stream(request, new AbortController().signal)) closed ??= slow.close()
  }
  await expect(open()).rejects.toMatchObject({ code: 'MODEL_BROKEN_STREAM' })
  await closed
})
