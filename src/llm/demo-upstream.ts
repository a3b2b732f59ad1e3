import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { newId } from '../domain/ids.ts'
import { type DemoRequest, demoAnswer, demoInputTokens, demoPieces, demoRequest } from './demo-script.ts'
import { countTokens } from './token-count.ts'

type DemoUpstreamOptions = {
  /** The pause before each piece of an answer. Default 15 ms. */
  delayMs?: number
}

export type DemoUpstream = {
  /** The base URL for an OpenAI client. */
  url: string
  /** Ends open streams and stops listening. */
  close(): Promise<void>
}

const longestBody = 16 * 1_048_576

/**
 * Starts an HTTP server on a free loopback port that speaks OpenAI's chat completions protocol by script, streaming or not: what
 * the platform talks to when it has no model. Any key but an empty one and any model name will do.
 */
export async function startDemoUpstream(options: DemoUpstreamOptions = {}): Promise<DemoUpstream> {
  const delayMs = options.delayMs ?? 15
  const server = createServer((request, response) => {
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    answer(request, response, delayMs, gone.signal).catch((error: unknown) => {
      // Nobody waits for the rest when the client has gone; everything else is ours.
      if (gone.signal.aborted) return
      if (response.headersSent) response.destroy(error instanceof Error ? error : undefined)
      else fail(response, 500, 'The demo upstream failed.')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    async close() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, delayMs: number, gone: AbortSignal): Promise<void> {
  if (!/^Bearer \S/i.test(request.headers.authorization ?? '')) return fail(response, 401, 'Send a key as a bearer token.')
  const route = `${request.method} ${request.url?.split('?')[0]}`
  if (route === 'GET /v1/models') {
    const model = { id: 'bulkhead-demo', object: 'model', created: 0, owned_by: 'bulkhead' }
    return send(response, 200, { object: 'list', data: [model] })
  }
  if (route !== 'POST /v1/chat/completions') return fail(response, 404, 'There is nothing here.')

  const body = await readBody(request)
  if (body === null) return fail(response, 413, 'The request is too large.')
  const parsed = demoRequest.safeParse(parseJson(body))
  if (!parsed.success) return fail(response, 400, 'This is not a chat completions request.')
  const completion = complete(parsed.data)
  return parsed.data.stream ? stream(response, parsed.data, completion, delayMs, gone) : sendWhole(response, completion)
}

/** The answer to `request`, cut at its bound on output tokens. */
function complete(request: DemoRequest) {
  const answer = demoAnswer(request)
  const head = { id: `chatcmpl-${newId()}`, created: Math.floor(Date.now() / 1000), model: request.model }
  const inputTokens = demoInputTokens(request)
  if ('callTool' in answer) {
    const call = {
      id: `call_${newId()}`,
      type: 'function',
      function: { name: answer.callTool, arguments: JSON.stringify(answer.arguments) },
    }
    return { head, pieces: [], call, finish: 'tool_calls', usage: usage(inputTokens, countTokens(call.function.arguments) + 8) }
  }
  const bound = request.max_completion_tokens ?? request.max_tokens ?? Number.POSITIVE_INFINITY
  const pieces: string[] = []
  let outputTokens = 0
  for (const piece of demoPieces(answer.text)) {
    const tokens = countTokens(piece)
    if (outputTokens + tokens > bound) return { head, pieces, finish: 'length', usage: usage(inputTokens, outputTokens) }
    outputTokens += tokens
    pieces.push(piece)
  }
  return { head, pieces, finish: 'stop', usage: usage(inputTokens, outputTokens) }
}

function usage(inputTokens: number, outputTokens: number) {
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  }
}

async function stream(
  response: ServerResponse,
  request: DemoRequest,
  completion: ReturnType<typeof complete>,
  delayMs: number,
  gone: AbortSignal,
): Promise<void> {
  const { head, pieces, call, finish, usage } = completion
  const withUsage = request.stream_options?.include_usage === true
  const write = (data: object) =>
    response.write(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', ...data })}\n\n`)
  const writeDelta = (delta: object, finishReason: string | null = null) =>
    write({ choices: [{ index: 0, delta, finish_reason: finishReason }], ...(withUsage ? { usage: null } : {}) })

  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' })
  writeDelta({ role: 'assistant', content: call ? null : '' })
  for (const content of pieces) {
    await delay(delayMs, undefined, { signal: gone })
    writeDelta({ content })
  }
  if (call) {
    await delay(delayMs, undefined, { signal: gone })
    writeDelta({ tool_calls: [{ index: 0, ...call, function: { ...call.function, arguments: '' } }] })
    writeDelta({ tool_calls: [{ index: 0, function: { arguments: call.function.arguments } }] })
  }
  writeDelta({}, finish)
  if (withUsage) write({ choices: [], usage })
  response.end('data: [DONE]\n\n')
}

function sendWhole(response: ServerResponse, { head, pieces, call, finish, usage }: ReturnType<typeof complete>): void {
  const message = { role: 'assistant', content: call ? null : pieces.join(''), ...(call ? { tool_calls: [call] } : {}) }
  send(response, 200, { ...head, object: 'chat.completion', choices: [{ index: 0, message, finish_reason: finish }], usage })
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

function fail(response: ServerResponse, status: number, message: string): void {
  send(response, status, { error: { message, type: 'invalid_request_error', param: null, code: null } })
}

/** The whole body; null when it is longer than is taken. */
async function readBody(request: IncomingMessage): Promise<string | null> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > longestBody) return null
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
