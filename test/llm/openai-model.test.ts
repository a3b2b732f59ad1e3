import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Model, ModelRequest } from '../../src/domain/ports.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import {
  callsTool,
  type FakeUpstream,
  says,
  saysALot,
  saysByteByByte,
  stallsAfter,
  startFakeUpstream,
} from '../support/fake-upstream.ts'
import { collect, hello, key, textOf } from '../support/model-call.ts'

let upstream: FakeUpstream

beforeEach(async () => {
  upstream = await startFakeUpstream()
})

afterEach(() => upstream.close())

function modelOf(): Model {
  return createOpenAiModel({ baseUrl: upstream.url, apiKey: key })
}

function ask(model: Model = modelOf(), request: Partial<ModelRequest> = {}) {
  return collect(model.stream({ ...hello, ...request }, new AbortController().signal))
}

describe('an answer', () => {
  test('comes as text, usage and the reason it ended', async () => {
    upstream.next(says('Hello to you', { usage: { input: 12, output: 3, cached: 4, reasoning: 1 } }))
    const events = await ask()
    expect(textOf(events)).toBe('Hello to you')
    expect(events.filter(({ type }) => type !== 'text')).toEqual([
      {
        type: 'usage',
        usage: { inputTokens: 12, cachedInputTokens: 4, outputTokens: 3, reasoningTokens: 1, estimated: false },
      },
      { type: 'finish', reason: 'STOP' },
    ])
  })

  test('arrives while the upstream is still speaking', async () => {
    upstream.next(stallsAfter('First'))
    const events = modelOf().stream(hello, new AbortController().signal)
    for await (const event of events) {
      expect(event).toEqual({ type: 'text', text: 'First' })
      expect(upstream.openStreams).toBe(1)
      break
    }
  })

  test('is asked for when the caller is ready, and not when that never comes', async () => {
    upstream.next(says('Hello'))
    const ready = Promise.withResolvers<void>()
    const events = collect(modelOf().stream(hello, new AbortController().signal, { ready: ready.promise }))
    await delay(30)
    expect(upstream.requests).toHaveLength(0)
    ready.resolve()
    expect(await events).toContainEqual({ type: 'text', text: 'Hello' })
    const never = Promise.reject(new Error('not stored'))
    await expect(collect(modelOf().stream(hello, new AbortController().signal, { ready: never }))).rejects.toThrow()
    expect(upstream.requests).toHaveLength(1)
  })

  test('is read together as far as it comes until the beat, and to its end without one', async () => {
    upstream.next(async (answer) => {
      for (const content of ['One ', 'two ', 'three ', 'four ', 'five']) {
        answer.delta({ content })
        await delay(10)
      }
      answer.finish()
    })
    let beats = 0
    const beat = () => (beats++ === 1 ? delay(25) : beats > 2 ? new Promise<void>(() => undefined) : null)
    const events = await collect(modelOf().stream(hello, new AbortController().signal, { beat }))
    const texts = events.flatMap((event) => (event.type === 'text' ? [event.text] : []))
    expect(texts.join('')).toBe('One two three four five')
    expect(texts.length).toBeLessThanOrEqual(3)
    expect(events.at(-1)).toEqual({ type: 'finish', reason: 'STOP' })
  })

  test('without usage or with nonsense for it has no usage event', async () => {
    upstream.next(says('Hello', { usage: null }), says('Hello', { usage: { input: -1, output: 1e15 } }))
    const withoutUsage = [
      { type: 'text', text: 'Hello' },
      { type: 'finish', reason: 'STOP' },
    ]
    expect(await ask()).toEqual(withoutUsage)
    expect(await ask()).toEqual(withoutUsage)
  })

  test('never reports a part of the tokens as more than the whole', async () => {
    upstream.next(says('Hello', { usage: { input: 5, output: 2, cached: 50, reasoning: 20 } }))
    expect(await ask()).toContainEqual({
      type: 'usage',
      usage: { inputTokens: 5, cachedInputTokens: 5, outputTokens: 2, reasoningTokens: 2, estimated: false },
    })
  })

  test.each([
    ['stop', 'STOP'],
    ['length', 'LENGTH'],
    ['content_filter', 'REFUSAL'],
    ['end_turn', 'STOP'],
  ])('that ends with %s ends with %s', async (finishReason, reason) => {
    upstream.next(says('Hello', { finishReason }))
    expect((await ask()).at(-1)).toEqual({ type: 'finish', reason })
  })

  test('that is a refusal in words gives the words and REFUSAL', async () => {
    upstream.next((answer) => {
      answer.delta({ refusal: 'I cannot.' })
      answer.finish()
    })
    const events = await ask()
    expect(textOf(events)).toBe('I cannot.')
    expect(events.at(-1)).toEqual({ type: 'finish', reason: 'REFUSAL' })
  })

  test('keeps characters whole that are split between packets', async () => {
    upstream.next(saysByteByByte('Grüße 漢字 👩‍👩‍👧 \u{10FFFF}'))
    expect(textOf(await ask())).toBe('Grüße 漢字 👩‍👩‍👧 \u{10FFFF}')
  })

  test('leaves its connection to the next one', async () => {
    for (let call = 0; call < 3; call++) {
      upstream.next(says('Hello'))
      expect(textOf(await ask())).toBe('Hello')
      // Its end may arrive a moment after what it says.
      await delay(50)
    }
    expect(upstream.connections).toBe(1)
  })

  test('is over when all is said, and its connection soon after, whether the upstream ends it or not', async () => {
    upstream.next((answer) => {
      answer.delta({ content: 'Hello' }, 'stop')
      answer.raw('data: [DONE]\n\n')
      return answer.request.closed
    })
    const began = performance.now()
    expect(textOf(await ask())).toBe('Hello')
    expect(performance.now() - began).toBeLessThan(800)
    const [request] = upstream.requests
    await request?.closed
    expect(request?.aborted).toBe(true)
  })

  test('may be large', async () => {
    upstream.next(saysALot(2000))
    expect(textOf(await ask(modelOf(), { maxOutputTokens: 2000 }))).toHaveLength(2_000_000)
  })

  test('counts as complete once the reason is there, even when the connection breaks after it', async () => {
    upstream.next(async (answer) => {
      answer.delta({ content: 'Hello' }, 'stop')
      await delay(20)
      answer.destroy()
    })
    expect(await ask()).toEqual([
      { type: 'text', text: 'Hello' },
      { type: 'finish', reason: 'STOP' },
    ])
  })
})

describe('tool calls', () => {
  test('come out as they are written, and whole, whatever the fragments', async () => {
    upstream.next(callsTool('current_time', { timeZone: 'Europe/Paris' }, 'call_7'))
    expect(await ask()).toEqual([
      { type: 'toolText', text: 'current_time' },
      { type: 'toolText', text: '{"t' },
      { type: 'toolText', text: 'imeZone":"Europe/Paris"}' },
      expect.objectContaining({ type: 'usage' }),
      { type: 'toolCall', call: { id: 'call_7', name: 'current_time', arguments: '{"timeZone":"Europe/Paris"}' } },
      { type: 'finish', reason: 'TOOL_CALLS' },
    ])
  })

  test('that come side by side are kept apart, by index and by id', async () => {
    const fragment = (index: number, id: string | undefined, name: string | undefined, text: string) => ({
      tool_calls: [{ index, id, function: { name, arguments: text } }],
    })
    const script = (second: number) => (answer: Parameters<ReturnType<typeof says>>[0]) => {
      answer.delta(fragment(0, 'a', 'one', '{"x'))
      if (second === 1) answer.delta(fragment(1, 'b', 'two', '{"y'))
      answer.delta(fragment(0, undefined, undefined, '":1}'))
      if (second === 0) answer.delta(fragment(0, 'b', 'two', '{"y'))
      answer.delta(fragment(second, undefined, undefined, '":2}'))
      // Several servers end with `stop` here.
      answer.finish('stop')
    }
    upstream.next(script(1), script(0))
    for (let call = 0; call < 2; call++) {
      const events = await ask()
      expect(events.filter((event) => event.type === 'toolCall').map((event) => event.call)).toEqual([
        { id: 'a', name: 'one', arguments: '{"x":1}' },
        { id: 'b', name: 'two', arguments: '{"y":2}' },
      ])
      expect(events.at(-1)).toEqual({ type: 'finish', reason: 'TOOL_CALLS' })
    }
  })

  test('that were cut off by the token bound are dropped', async () => {
    upstream.next((answer) => {
      answer.delta({ tool_calls: [{ index: 0, id: 'a', function: { name: 'one', arguments: '{"x' } }] })
      answer.finish('length')
    })
    expect((await ask()).map((event) => event.type)).toEqual(['toolText', 'usage', 'finish'])
  })
})

describe('a request', () => {
  test('carries the conversation, the tools and the key', async () => {
    const parameters = { type: 'object', properties: {} }
    await ask(modelOf(), {
      messages: [
        { role: 'system', content: 'Be kind.' },
        { role: 'user', content: 'What time is it?' },
        { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'current_time', arguments: '{}' }] },
        { role: 'tool', toolCallId: 'call_1', content: 'Noon' },
        { role: 'assistant', content: 'Noon.' },
      ],
      tools: [{ name: 'current_time', description: 'The time.', parameters }],
    })
    const { headers, body } = await upstream.received(1)
    expect(headers.authorization).toBe(`Bearer ${key}`)
    expect(headers['openai-organization']).toBeUndefined()
    expect(body).toEqual({
      model: 'gpt-4o-mini',
      messages: [
        { role: 'system', content: 'Be kind.' },
        { role: 'user', content: 'What time is it?' },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'current_time', arguments: '{}' } }],
        },
        { role: 'tool', tool_call_id: 'call_1', content: 'Noon' },
        { role: 'assistant', content: 'Noon.' },
      ],
      temperature: 0.5,
      max_completion_tokens: 100,
      tools: [{ type: 'function', function: { name: 'current_time', description: 'The time.', parameters } }],
      stream: true,
      stream_options: { include_usage: true },
    })
  })

  test('sends no temperature to a model that thinks, and the old bound to a model it does not know', async () => {
    await ask(modelOf(), { model: 'o4-mini' })
    await ask(modelOf(), { model: 'llama-3' })
    const [thinking, unknown] = upstream.requests
    expect(thinking?.body).toMatchObject({ max_completion_tokens: 100 })
    expect(thinking?.body).not.toHaveProperty('temperature')
    expect(unknown?.body).toMatchObject({ max_tokens: 100, temperature: 0.5 })
    expect(unknown?.body).not.toHaveProperty('max_completion_tokens')
  })

  test('is not made before the stream is read', async () => {
    modelOf().stream(hello, new AbortController().signal)
    await delay(20)
    expect(upstream.requests).toHaveLength(0)
  })

  test('needs a URL and a key that fits into a header', () => {
    expect(() => createOpenAiModel({ baseUrl: 'nowhere', apiKey: key })).toThrow(TypeError)
    expect(() => createOpenAiModel({ baseUrl: upstream.url, apiKey: '' })).toThrow(TypeError)
    expect(() => createOpenAiModel({ baseUrl: upstream.url, apiKey: 'sk\nx' })).toThrow(TypeError)
  })
})

test('calls side by side do not mix', async () => {
  upstream.otherwise((answer) => says(`${answer.request.lastMessage} `.repeat(20), { delayMs: 1 })(answer))
  const model = modelOf()
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => ask(model, { messages: [{ role: 'user', content: `tenant-${index}` }] })),
  )
  expect(answers.map((events) => textOf(events))).toEqual(answers.map((_, index) => `tenant-${index} `.repeat(20).trimEnd()))
  expect(upstream.mostOpenStreams).toBeGreaterThan(1)
})
