import { getEventListeners } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Model, ModelError, ModelEvent, ModelRequest } from '../../src/domain/ports.ts'
import { createOpenAiModel, type OpenAiModelOptions } from '../../src/llm/openai-model.ts'
import {
  breaksOffAfter,
  endsEarlyAfter,
  type FakeUpstream,
  fails,
  neverAnswers,
  says,
  saysALot,
  sendsGarbage,
  stallsAfter,
  startFakeUpstream,
} from '../support/fake-upstream.ts'
import { collect, hello, key, textOf } from '../support/model-call.ts'

let upstream: FakeUpstream

beforeEach(async () => {
  upstream = await startFakeUpstream()
})

afterEach(() => upstream.close())

function modelOf(limits: OpenAiModelOptions['limits'] = {}): Model {
  return createOpenAiModel({ baseUrl: upstream.url, apiKey: key, limits })
}

function ask(model: Model = modelOf(), request: Partial<ModelRequest> = {}, signal = new AbortController().signal) {
  return collect(model.stream({ ...hello, ...request }, signal))
}

/** The ModelError that `call` ends with, checked to give nothing of the upstream away. */
async function failureOf(call: Promise<unknown>): Promise<ModelError> {
  const error = await call.then(
    () => expect.unreachable('the call should have failed'),
    (reason: ModelError) => reason,
  )
  expect(error.name).toBe('ModelError')
  expect(`${error.message} ${error.cause}`).not.toMatch(/127\.0\.0\.1|localhost|http:|upstream words|sk-/)
  return error
}

describe('a failure', () => {
  test.each([
    [400, 'MODEL_BAD_REQUEST', false],
    [401, 'MODEL_REFUSED', false],
    [403, 'MODEL_REFUSED', false],
    [404, 'MODEL_REFUSED', false],
    [422, 'MODEL_BAD_REQUEST', false],
    [429, 'MODEL_RATE_LIMITED', true],
    [500, 'MODEL_UNAVAILABLE', true],
    [503, 'MODEL_UNAVAILABLE', true],
  ])('with HTTP %i is %s and is never retried here', async (status, code, retryable) => {
    upstream.next(fails(status))
    expect(await failureOf(ask())).toMatchObject({ code, retryable, retryAfterMs: null })
    expect(upstream.requests).toHaveLength(1)
  })

  test('tells how long to wait, in seconds or until a date', async () => {
    const date = new Date(Date.now() + 90_000).toUTCString()
    upstream.next(fails(429, { 'retry-after': '7' }), fails(429, { 'retry-after': date }), fails(503, { 'retry-after': '2' }))
    expect(await failureOf(ask())).toMatchObject({ retryAfterMs: 7000 })
    const { retryAfterMs } = await failureOf(ask())
    expect(retryAfterMs).toBeGreaterThan(85_000)
    expect(retryAfterMs).toBeLessThanOrEqual(90_000)
    expect(await failureOf(ask())).toMatchObject({ code: 'MODEL_UNAVAILABLE', retryAfterMs: 2000 })
  })

  test('for lack of credit is not worth a retry', async () => {
    upstream.next(fails(429, {}, { message: 'upstream words', code: 'insufficient_quota' }))
    expect(await failureOf(ask())).toMatchObject({ code: 'MODEL_RATE_LIMITED', retryable: false })
  })

  test('to connect is MODEL_UNAVAILABLE', async () => {
    const model = createOpenAiModel({ baseUrl: 'http://127.0.0.1:1/v1', apiKey: key })
    expect(await failureOf(ask(model))).toMatchObject({ code: 'MODEL_UNAVAILABLE', retryable: true })
  })

  test('in the middle of a stream, said by the upstream, is MODEL_UNAVAILABLE', async () => {
    upstream.next((answer) => {
      answer.delta({ content: 'Hel' })
      answer.event({ error: { message: 'upstream words' } })
      answer.end()
    })
    expect(await failureOf(ask())).toMatchObject({ code: 'MODEL_UNAVAILABLE' })
  })

  test('does not send the key where a redirect points', async () => {
    upstream.next(fails(307, { location: '/v1/elsewhere' }))
    await failureOf(ask())
    expect(upstream.requests).toHaveLength(1)
  })

  test.each([
    ['garbage', sendsGarbage()],
    ['a socket that is destroyed', breaksOffAfter('Hel')],
    ['an end without a finish reason', endsEarlyAfter('Hel')],
    ['an empty answer', endsEarlyAfter('')],
    ['JSON of another shape', (answer) => answer.event({ choices: 'none' })],
    ['JSON that is no object', (answer) => answer.event(42)],
    ['tool calls that are announced and never come', (answer) => answer.finish('tool_calls')],
    [
      'a tool call without a name',
      (answer) => {
        answer.delta({ tool_calls: [{ index: 0, id: 'a' }] })
        answer.finish('tool_calls')
      },
    ],
  ] as [string, ReturnType<typeof says>][])('by %s is MODEL_BROKEN_STREAM', async (_what, script) => {
    upstream.next(script)
    expect(await failureOf(ask())).toMatchObject({ code: 'MODEL_BROKEN_STREAM', retryable: true })
  })

  test('is told by its ModelError alone: the client prints nothing', async () => {
    const print = vi.spyOn(console, 'error')
    upstream.next(sendsGarbage())
    await failureOf(ask())
    expect(print).not.toHaveBeenCalled()
    print.mockRestore()
  })

  test('by something that is no HTTP server is MODEL_BROKEN_STREAM', async () => {
    const server = createServer((socket) =>
      socket
        .on('error', () => socket.destroy())
        .resume()
        .end('SSH-2.0-OpenSSH_9.2\r\n'),
    )
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address() as { port: number }
    const model = createOpenAiModel({ baseUrl: `http://127.0.0.1:${address.port}/v1`, apiKey: key })
    expect(await failureOf(ask(model))).toMatchObject({ code: 'MODEL_BROKEN_STREAM' })
    await new Promise((resolve) => server.close(resolve))
  })

  test('ends an answer that is larger than its tokens can be', async () => {
    upstream.next(saysALot(3000))
    expect(await failureOf(ask(modelOf(), { maxOutputTokens: 10 }))).toMatchObject({ code: 'MODEL_BROKEN_STREAM' })
  })
})

describe('a stall', () => {
  test.each([
    ['before the headers', neverAnswers()],
    ['after the headers', stallsAfter()],
    ['after the first words', stallsAfter('Hel')],
  ])('%s is MODEL_TIMED_OUT and drops the upstream', async (_when, script) => {
    upstream.next(script)
    const started = performance.now()
    expect(await failureOf(ask(modelOf({ firstTokenMs: 80, idleMs: 80 })))).toMatchObject({
      code: 'MODEL_TIMED_OUT',
      retryable: true,
    })
    expect(performance.now() - started).toBeLessThan(1000)
    const [request] = upstream.requests
    await request?.closed
    expect(request?.aborted).toBe(true)
  })

  test('may be longer before the first word than after it', async () => {
    const script: ReturnType<typeof says> = async (answer) => {
      answer.start()
      await delay(150)
      answer.delta({ content: 'Hel' })
      await answer.request.closed
    }
    upstream.next(script)
    const seen: ModelEvent[] = []
    const call = (async () => {
      for await (const event of modelOf({ firstTokenMs: 5000, idleMs: 60 }).stream(hello, new AbortController().signal))
        seen.push(event)
    })()
    expect(await failureOf(call)).toMatchObject({ code: 'MODEL_TIMED_OUT' })
    expect(textOf(seen)).toBe('Hel')
  })

  test('is none while comments keep the connection alive', async () => {
    upstream.next(async (answer) => {
      for (let beat = 0; beat < 20; beat++) {
        answer.raw(': still here\n\n')
        await delay(60)
      }
      answer.delta({ content: 'Hello' })
      answer.finish()
    })
    expect(textOf(await ask(modelOf({ firstTokenMs: 1_000, idleMs: 1_000 })))).toBe('Hello')
  })

  test('is none while the reader takes its time', async () => {
    upstream.next(says('One two three'))
    const read: string[] = []
    for await (const event of modelOf({ firstTokenMs: 1000, idleMs: 40 }).stream(hello, new AbortController().signal)) {
      await delay(60)
      if (event.type === 'text') read.push(event.text)
    }
    expect(read.join('')).toBe('One two three')
  })

  test('of the whole is MODEL_TIMED_OUT, however lively the stream', async () => {
    upstream.next(says('word '.repeat(1000), { delayMs: 5 }))
    expect(await failureOf(ask(modelOf({ totalMs: 120 })))).toMatchObject({ code: 'MODEL_TIMED_OUT' })
  })
})

describe('a cancellation', () => {
  test.each([
    ['before the headers', neverAnswers()],
    ['between two words', stallsAfter('Hel')],
    ['of a lively stream', says('word '.repeat(1000), { delayMs: 2 })],
  ])('%s reaches the upstream at once and throws the reason', async (_when, script) => {
    upstream.next(script)
    const abort = new AbortController()
    const call = ask(modelOf(), {}, abort.signal)
    const request = await upstream.received(1)
    const reason = new Error('cancelled')
    setTimeout(() => abort.abort(reason), 30)
    await expect(call).rejects.toBe(reason)
    const thrown = performance.now()
    await request.closed
    expect(performance.now() - thrown).toBeLessThan(200)
    expect(request.aborted).toBe(true)
    expect(upstream.openStreams).toBe(0)
  })

  test('that came first makes no call', async () => {
    const reason = new Error('cancelled')
    await expect(ask(modelOf(), {}, AbortSignal.abort(reason))).rejects.toBe(reason)
    expect(upstream.requests).toHaveLength(0)
  })

  test('stops the iteration, after what was received already', async () => {
    upstream.next((answer) => {
      answer.delta({ content: 'one' })
      answer.delta({ content: ' two' })
      return answer.request.closed
    })
    const abort = new AbortController()
    // Both words have come by then, and were not asked for.
    const beat = async () => {
      await delay(100)
      abort.abort(new Error('enough'))
    }
    const seen: ModelEvent[] = []
    const call = (async () => {
      for await (const event of modelOf().stream(hello, abort.signal, { beat })) seen.push(event)
    })()
    await expect(call).rejects.toThrow('enough')
    expect(textOf(seen)).toBe('one two')
  })

  test.each([
    ['when the beat comes', (abort: () => void) => abort()],
    ['while that is read', (abort: () => void) => void queueMicrotask(() => queueMicrotask(() => queueMicrotask(abort)))],
    ['a turn later', (abort: () => void) => void setImmediate(abort)],
  ])('%s stops it after what was left in the kernel, too', async (_when, cancel) => {
    const goesOn = Promise.withResolvers<void>()
    upstream.next(async (answer) => {
      for (const word of ['one', ' two', ' three', ' four']) {
        answer.delta({ content: word })
        await delay(5)
      }
      await goesOn.promise
      for (const word of [' five', ' six', ' seven']) {
        answer.delta({ content: word })
        await delay(5)
      }
      await answer.request.closed
    })
    const abort = new AbortController()
    let beats = 0
    const beat = async () => {
      if (++beats === 2) goesOn.resolve()
      await delay(100)
      if (beats === 2) cancel(() => abort.abort(new Error('enough')))
    }
    const seen: ModelEvent[] = []
    const call = (async () => {
      for await (const event of modelOf().stream(hello, abort.signal, { beat })) seen.push(event)
    })()
    await expect(call).rejects.toThrow('enough')
    expect(textOf(seen)).toBe('one two three four five six seven')
  })

  test('counts until the very end, even while only usage is missing', async () => {
    upstream.next((answer) => {
      answer.delta({ content: 'Hello' }, 'stop')
      return answer.request.closed
    })
    const abort = new AbortController()
    const call = ask(modelOf(), {}, abort.signal)
    await upstream.received(1)
    setTimeout(() => abort.abort(new Error('cancelled')), 30)
    await expect(call).rejects.toThrow('cancelled')
  })

  test('by leaving the loop reaches the upstream too', async () => {
    upstream.next(stallsAfter('Hel'))
    for await (const event of modelOf().stream(hello, new AbortController().signal)) {
      expect(event.type).toBe('text')
      break
    }
    const request = await upstream.received(1)
    await request.closed
    expect(request.aborted).toBe(true)
  })

  test('leaves no listener behind on a signal that many calls share', async () => {
    const { signal } = new AbortController()
    for (let call = 0; call < 5; call++) await ask(modelOf(), {}, signal)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })
})
