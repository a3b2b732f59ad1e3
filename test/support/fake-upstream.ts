import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** The parts of a chat completions body that tests look at; the rest is there too. */
export type UpstreamBody = {
  model: string
  messages: { role: string; content: string | null; tool_call_id?: string; tool_calls?: unknown[] }[]
  tools?: { function: { name: string } }[]
  [field: string]: unknown
}

/** One call that reached the fake. */
export type UpstreamRequest = {
  path: string
  headers: IncomingHttpHeaders
  body: UpstreamBody
  /** The last message's text. */
  lastMessage: string
  /** True once the client closed the connection before the answer had ended. */
  aborted: boolean
  /** Resolves when the exchange is over, whoever ended it. */
  closed: Promise<void>
}

/** What a script may do with the answer to one call. Nothing is sent until the first of these is called. */
export type UpstreamAnswer = {
  request: UpstreamRequest
  /** Aborts when the connection is closed: what a script waits with. */
  gone: AbortSignal
  /** Sends the streaming headers. */
  start(): void
  /** Sends one `data:` event with `choices: [{ delta, finish_reason }]`, after the headers if they are still to be sent. */
  delta(delta: object, finishReason?: string): void
  /** Sends one event with any JSON. */
  event(data: unknown): void
  /** Sends bytes as they are, in a write of their own, after the streaming headers. */
  raw(bytes: string | Uint8Array): void
  /** Sends the finish reason, the usage unless null, and `[DONE]`; ends the answer. */
  finish(finishReason?: string, usage?: UpstreamUsage | null): void
  /** Answers with a status and OpenAI's error body. */
  fail(status: number, headers?: Record<string, string>, error?: object): void
  /** Ends the answer as it is. */
  end(): void
  /** Destroys the socket without a farewell. */
  destroy(): void
}

type UpstreamUsage = { input: number; output: number; cached?: number; reasoning?: number }

export type UpstreamScript = (answer: UpstreamAnswer) => void | Promise<void>

export type FakeUpstream = {
  /** The base URL for an OpenAI client. */
  url: string
  /** Every call so far, in order of arrival. */
  requests: UpstreamRequest[]
  /** Answers that are being sent right now, and the most there ever were at once. */
  openStreams: number
  mostOpenStreams: number
  /** Connections that were made to it. */
  connections: number
  /** Queues scripts for the next calls that no `when` claims, first come first served. */
  next(...scripts: UpstreamScript[]): void
  /** Answers every call that matches by `script`; the latest match wins, and it goes before the queue. */
  when(matches: (request: UpstreamRequest) => boolean, script: UpstreamScript): void
  /** What answers a call when nothing else does. At first: says `Hello from <model>.` */
  otherwise(script: UpstreamScript): void
  /** Resolves with the `count`-th call, counting from 1, as soon as it has arrived. */
  received(count: number): Promise<UpstreamRequest>
  close(): Promise<void>
}

/** Starts a scriptable upstream on a free loopback port. A script that throws fails the `close()`, unless the client had gone. */
export async function startFakeUpstream(): Promise<FakeUpstream> {
  const queue: UpstreamScript[] = []
  const rules: { matches: (request: UpstreamRequest) => boolean; script: UpstreamScript }[] = []
  const waiting: { count: number; resolve: (request: UpstreamRequest) => void }[] = []
  const failures: unknown[] = []
  let fallback: UpstreamScript = (answer) => says(`Hello from ${answer.request.body.model}.`)(answer)

  const server = createServer(async (incoming, response) => {
    const exchange: Exchange = { response, gone: new AbortController(), endedByScript: false }
    try {
      const request = await record(incoming, exchange)
      upstream.requests.push(request)
      upstream.openStreams++
      upstream.mostOpenStreams = Math.max(upstream.mostOpenStreams, upstream.openStreams)
      request.closed.then(() => upstream.openStreams--)
      for (const { count, resolve } of waiting) if (count === upstream.requests.length) resolve(request)
      const rule = rules.findLast(({ matches }) => matches(request))
      const script = rule?.script ?? queue.shift() ?? fallback
      await script(answerTo(request, exchange))
    } catch (error) {
      if (!exchange.gone.signal.aborted) failures.push(error)
      response.destroy()
    }
  })
  server.on('connection', () => upstream.connections++)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  const upstream: FakeUpstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests: [],
    openStreams: 0,
    mostOpenStreams: 0,
    connections: 0,
    next: (...scripts) => void queue.push(...scripts),
    when: (matches, script) => void rules.push({ matches, script }),
    otherwise(script) {
      fallback = script
    },
    received(count) {
      const request = upstream.requests[count - 1]
      return request ? Promise.resolve(request) : new Promise((resolve) => void waiting.push({ count, resolve }))
    },
    async close() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
      if (failures.length > 0) throw new AggregateError(failures, 'A script of the fake upstream failed.')
    },
  }
  return upstream
}

/** Reads one call. `endedByScript` tells a script's own hanging up from the client's. */
async function record(incoming: IncomingMessage, exchange: Exchange): Promise<UpstreamRequest> {
  const { response, gone } = exchange
  const request: UpstreamRequest = {
    path: incoming.url ?? '',
    headers: incoming.headers,
    body: { model: '', messages: [] },
    lastMessage: '',
    aborted: false,
    closed: once(response, 'close').then(() => {
      request.aborted = !exchange.endedByScript
      gone.abort()
    }),
  }
  const chunks: Buffer[] = []
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk)
  if (chunks.length > 0) request.body = JSON.parse(Buffer.concat(chunks).toString())
  request.lastMessage = request.body.messages.at(-1)?.content ?? ''
  return request
}

type Exchange = { response: ServerResponse; gone: AbortController; endedByScript: boolean }

function answerTo(request: UpstreamRequest, exchange: Exchange): UpstreamAnswer {
  const { response } = exchange
  const head = { id: 'chatcmpl-fake', object: 'chat.completion.chunk', created: 0, model: request.body.model }
  const start = () => {
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
  }
  const end = (text?: string) => {
    exchange.endedByScript = true
    response.end(text)
  }
  const answer: UpstreamAnswer = {
    request,
    gone: exchange.gone.signal,
    start,
    raw(bytes) {
      start()
      response.write(bytes)
    },
    event: (data) => answer.raw(`data: ${JSON.stringify(data)}\n\n`),
    delta: (delta, finishReason) =>
      answer.event({ ...head, choices: [{ index: 0, delta, finish_reason: finishReason ?? null }], usage: null }),
    finish(finishReason = 'stop', usage = { input: 10, output: 5 }) {
      answer.delta({}, finishReason)
      if (usage) answer.event({ ...head, choices: [], usage: usageOnTheWire(usage) })
      end('data: [DONE]\n\n')
    },
    fail(status, headers = {}, error = { message: 'upstream words', type: 'fake', param: null, code: null }) {
      response.writeHead(status, { 'content-type': 'application/json', ...headers })
      end(JSON.stringify({ error }))
    },
    end: () => end(),
    destroy() {
      exchange.endedByScript = true
      response.destroy()
    },
  }
  return answer
}

function usageOnTheWire({ input, output, cached = 0, reasoning = 0 }: UpstreamUsage) {
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: cached },
    completion_tokens_details: { reasoning_tokens: reasoning },
  }
}

type SaysOptions = {
  /** The pause before each word. Default 0 ms. */
  delayMs?: number
  /** Default: 10 in, one out for each word. Null: none is reported. */
  usage?: UpstreamUsage | null
  /** Default `stop`. */
  finishReason?: string
}

/** Says `text` word by word. */
export function says(text: string, options: SaysOptions = {}): UpstreamScript {
  const words = text.match(/\s*\S+/g) ?? []
  const { delayMs = 0, usage = { input: 10, output: words.length }, finishReason } = options
  return async (answer) => {
    answer.delta({ role: 'assistant', content: '' })
    for (const content of words) {
      if (delayMs > 0) await delay(delayMs, undefined, { signal: answer.gone })
      answer.delta({ content })
    }
    answer.finish(finishReason, usage)
  }
}

/** Calls one tool, its arguments in two fragments. */
export function callsTool(name: string, args: unknown, id = 'call_1'): UpstreamScript {
  const text = JSON.stringify(args)
  return (answer) => {
    answer.delta({
      role: 'assistant',
      content: null,
      tool_calls: [{ index: 0, id, type: 'function', function: { name, arguments: '' } }],
    })
    answer.delta({ tool_calls: [{ index: 0, function: { arguments: text.slice(0, 3) } }] })
    answer.delta({ tool_calls: [{ index: 0, function: { arguments: text.slice(3) } }] })
    answer.finish('tool_calls')
  }
}

/** Answers with an HTTP error: 401 and 404 refuse, 429 may carry `{ 'retry-after': '2' }`, 500 fails. */
export function fails(status: number, headers: Record<string, string> = {}, error?: object): UpstreamScript {
  return (answer) => answer.fail(status, headers, error)
}

/** Accepts the call and sends nothing, not even headers, until the client gives up. */
export function neverAnswers(): UpstreamScript {
  return (answer) => answer.request.closed
}

/** Sends the headers, and `text` if there is one, then nothing more until the client gives up. */
export function stallsAfter(text = ''): UpstreamScript {
  return (answer) => {
    answer.start()
    if (text) answer.delta({ content: text })
    return answer.request.closed
  }
}

/** Sends `text`, then destroys the socket. */
export function breaksOffAfter(text: string): UpstreamScript {
  return async (answer) => {
    answer.delta({ content: text })
    // Else the bytes may go down with the socket.
    await delay(20)
    answer.destroy()
  }
}

/** Says `text`, then ends the answer in order, but without a finish reason. */
export function endsEarlyAfter(text: string): UpstreamScript {
  return (answer) => {
    answer.delta({ content: text })
    answer.end()
  }
}

/** Sends bytes that are neither JSON nor UTF-8. */
export function sendsGarbage(): UpstreamScript {
  return (answer) => {
    answer.raw(Buffer.from([0x64, 0x61, 0x74, 0x61, 0x3a, 0x20, 0xff, 0xfe, 0x00, 0x7b, 0x0a, 0x0a]))
    answer.end()
  }
}

/** Says `text` in one event, sent byte by byte, so that every character longer than a byte is split between writes. */
export function saysByteByByte(text: string): UpstreamScript {
  return async (answer) => {
    const chunk = { choices: [{ index: 0, delta: { content: text }, finish_reason: null }] }
    for (const byte of Buffer.from(`data: ${JSON.stringify(chunk)}\n\n`)) {
      answer.raw(Uint8Array.of(byte))
      await new Promise(setImmediate)
    }
    answer.finish()
  }
}

/** Says `count` times a thousand letters, all at once. */
export function saysALot(count: number): UpstreamScript {
  return (answer) => {
    for (let sent = 0; sent < count; sent++) answer.delta({ content: 'x'.repeat(1000) })
    answer.finish('stop', { input: 10, output: count })
  }
}
