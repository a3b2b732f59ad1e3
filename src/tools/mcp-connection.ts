import { ReadableStream } from 'node:stream/web'
import {
  Client,
  type FetchLike,
  SdkError,
  SdkErrorCode,
  StreamableHTTPClientTransport,
  type Tool,
} from '@modelcontextprotocol/client'
import { type Egress, EgressFailure, type EgressFailureCode, type EgressStream } from '../domain/ports.ts'

/** A tool as a server tells of it. Nothing of it is to be trusted. */
export type ListedTool = { name: string; description: string; parameters: Record<string, unknown>; isRepeatable: boolean }

/** A connection to a server, for as long as something is done with it. */
export type McpConnection = {
  /** The server's tools. Throws when there are more than `most`. */
  listTools(most: number): Promise<ListedTool[]>
  /** What a tool answers, as text. */
  callTool(name: string, args: Record<string, unknown>, idempotencyKey: string): Promise<{ text: string; isError: boolean }>
}

type ServerOptions = {
  egress: Egress
  url: string
  headers: Record<string, string>
  /** For everything, in milliseconds. */
  timeoutMs: number
  signal: AbortSignal | null
}

/** Bytes of one answer of a server. */
const mostBytes = 1_048_576

/** What is asked of a server for one use of it, so that one that itself keeps asking gets no more than this. */
const mostRequests = 24

/** How long a server gets to end a session, in milliseconds. */
const farewell = 1_000

/** Connects, does something, and closes. Throws the signal's reason when aborted, and an EgressFailure for a request that came to nothing. */
export async function withMcpServer<T>(options: ServerOptions, use: (connection: McpConnection) => Promise<T>): Promise<T> {
  const { url, headers, timeoutMs } = options
  const broken = new AbortController()
  const late = AbortSignal.timeout(timeoutMs)
  const signal = AbortSignal.any([broken.signal, late, ...(options.signal ? [options.signal] : [])])
  const answers: EgressStream[] = []
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    fetch: guardedFetch(options, { signal, answers, onFailure: (failure) => broken.abort(failure) }),
    requestInit: { headers },
    // What broke is not taken up again: whoever calls decides that.
    reconnectionOptions: { maxRetries: 0, initialReconnectionDelay: 1, maxReconnectionDelay: 1, reconnectionDelayGrowFactor: 1 },
  })
  const client = new Client({ name: 'bulkhead', version: '1' }, { jsonSchemaValidator: trusting })
  // Before that, nothing was asked that could have an effect.
  let isConnected = false
  try {
    const limits = { signal, timeout: timeoutMs }
    await client.connect(transport, limits)
    isConnected = true
    return await use(connectionOf(client, limits))
  } catch (error) {
    options.signal?.throwIfAborted()
    const { code, message } = failureOf(error, broken.signal, late)
    if (code === null) throw error
    const isOpen = code === 'TIMED_OUT' || code === 'UNREACHABLE'
    throw new EgressFailure(code, message, { cause: error, mayHaveArrived: isConnected && isOpen })
  } finally {
    if (transport.sessionId !== undefined && !signal.aborted) await transport.terminateSession().catch(() => undefined)
    await client.close().catch(() => undefined)
    await Promise.all(answers.map((answer) => answer.close()))
  }
}

/** Why it came to nothing; null for the code when the server said so. The SDK knows only that something was aborted or closed. */
function failureOf(error: unknown, broken: AbortSignal, late: AbortSignal): { code: EgressFailureCode | null; message: string } {
  if (broken.aborted && broken.reason instanceof EgressFailure) return broken.reason
  if (late.aborted) return { code: 'TIMED_OUT', message: 'It took too long.' }
  const lost: unknown[] = [SdkErrorCode.ConnectionClosed, SdkErrorCode.RequestTimeout, SdkErrorCode.SendFailed]
  if (error instanceof SdkError && lost.includes(error.code)) return { code: 'UNREACHABLE', message: 'It did not answer.' }
  return { code: null, message: '' }
}

/** What a server's own schemas say of its answers is not checked: to compile them would be to run what it wrote, and a model reads text. */
const trusting = {
  getValidator: () => (input: unknown) => ({ valid: true as const, data: input as never, errorMessage: undefined }),
}

type CallLimits = { signal: AbortSignal; timeout: number }

function connectionOf(client: Client, limits: CallLimits): McpConnection {
  return {
    async listTools(most) {
      const tools: Tool[] = []
      for (let cursor: string | undefined; ; ) {
        const page = await client.listTools(cursor === undefined ? { cursor: undefined } : { cursor }, limits)
        tools.push(...page.tools)
        if (tools.length > most) throw new Error(`The server has more than ${most} tools.`)
        if (page.nextCursor === undefined) return tools.map(listedTool)
        cursor = page.nextCursor
      }
    },
    async callTool(name, args, idempotencyKey) {
      const { content, structuredContent, isError } = await client.callTool(
        { name, arguments: args, _meta: { 'bulkhead/idempotency-key': idempotencyKey } },
        limits,
      )
      const said = content.map(textOf).filter((text) => text !== '')
      const text = said.length === 0 && structuredContent !== undefined ? JSON.stringify(structuredContent) : said.join('\n')
      return { text, isError: isError === true }
    },
  }
}

function listedTool({ name, description = '', inputSchema, annotations }: Tool): ListedTool {
  const isRepeatable = annotations?.readOnlyHint === true || annotations?.idempotentHint === true
  return { name, description: description || name, parameters: inputSchema, isRepeatable }
}

type Content = Awaited<ReturnType<Client['callTool']>>['content'][number]

function textOf(content: Content): string {
  if (content.type === 'text') return content.text
  if (content.type === 'resource' && 'text' in content.resource) return content.resource.text
  if (content.type === 'resource_link') return content.uri
  return `(${content.type}, which is not shown)`
}

type Exchange = {
  signal: AbortSignal
  /** Every answer that was begun, to be closed at the end. */
  answers: EgressStream[]
  /** Told what broke, also while an answer is being read. */
  onFailure: (failure: unknown) => void
}

/** The SDK's requests, by the guarded way out. */
function guardedFetch({ egress, url }: ServerOptions, { signal, answers, onFailure }: Exchange): FetchLike {
  const { hostname } = new URL(url)
  let requests = 0
  return async (to, init) => {
    const method = init?.method ?? 'GET'
    // The stream on which a server would speak unasked is not opened: nobody listens.
    if (method === 'GET') return new Response(null, { status: 405 })
    if (method !== 'POST' && method !== 'DELETE') throw new TypeError(`MCP has no ${method}.`)
    if (++requests > mostRequests) throw failed(new EgressFailure('REFUSED', 'The server asks too much.'))
    function failed(failure: unknown): unknown {
      onFailure(failure)
      return failure
    }
    const headers = { 'user-agent': 'Bulkhead', ...Object.fromEntries(new Headers(init?.headers)) }
    const asked = { url: String(to), method, headers, body: typeof init?.body === 'string' ? init.body : null } as const
    const limits = {
      allowedHosts: [hostname],
      maxRedirects: 0,
      maxBytes: mostBytes,
      signal,
      timeout: method === 'DELETE' ? farewell : 60_000,
    }
    const answer = await egress.stream({ ...asked, ...limits }).catch((error) => {
      // A server need not mind that a session ends.
      throw method === 'DELETE' ? error : failed(error)
    })
    answers.push(answer)
    const { status } = answer
    const isEmpty = status === 204 || status === 205 || status === 304
    const body = isEmpty ? null : (ReadableStream.from(watched(answer.body, failed)) as BodyInit)
    return new Response(body, { status, headers: answer.headers })
  }
}

/** The same bytes; `failed` is told when they end before their time. */
async function* watched(body: AsyncIterable<Uint8Array>, failed: (failure: unknown) => unknown): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (error) {
    throw failed(error)
  }
}
