import { gunzipSync } from 'node:zlib'
import { openSocket } from '../support/raw-socket.ts'

/** An operation as a client sends it. */
export type Request = { url: string; key: string; query: string; variables: Record<string, unknown> }

export type Result = { data?: Record<string, unknown> | null; errors?: { extensions?: Record<string, unknown> }[] }

/** Whether the role may not ask the operation at all. Fields of what it is answered may be for others all the same. */
export function isRefused(operation: string, { results }: Answer): boolean {
  const isRefusal = ({ data, errors }: Result) => {
    const result = data?.[operation] as { __typename?: string } | null | undefined
    return result?.__typename === 'Forbidden' || (!result && errors?.[0]?.extensions?.['code'] === 'FORBIDDEN')
  }
  return results.length > 0 && results.every(isRefusal)
}

/** What a client was shown, to the byte but for the date, and the results in it. */
export type Answer = { shown: string; results: Result[] }

export type Transport = (request: Request) => Promise<Answer>

/** How long a stream that does not end is listened to after it fell silent, in milliseconds. */
const patience = 1_500

/** Asks by POST: status, headers and body. */
export async function overHttp(request: Request): Promise<Answer> {
  const response = await post(request, 'application/graphql-response+json')
  const text = await response.text()
  return { shown: shownOf(response, text), results: [JSON.parse(text)] }
}

/** Asks by POST for server-sent events: status, headers and everything that is sent until the stream ends. */
export async function overEventStream(request: Request): Promise<Answer> {
  const leave = new AbortController()
  const response = await post(request, 'text/event-stream', leave.signal)
  let text = ''
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  for (let piece = await reader?.read(); piece && !piece.done; piece = await unlessSilent(reader?.read())) text += piece.value
  leave.abort()
  const results = [...text.matchAll(/^data: ?(.+)$/gm)].map(([, data = '']) => JSON.parse(data))
  return { shown: shownOf(response, text), results }
}

/** Asks on a socket of its own: every frame until the operation is complete, then how the socket was closed. */
export async function overWebSocket({ url, key, query, variables }: Request): Promise<Answer> {
  const socket = await openSocket(url)
  const frames: string[] = []
  const closed = new Promise<string>((resolve) => {
    socket.ws.once('close', (code, reason) => resolve(`${code} ${reason}`))
  })
  const complete = new Promise<void>((resolve) => {
    socket.ws.on('message', (data) => {
      const frame = String(data)
      frames.push(frame)
      if (/"type":"(complete|error)"/.test(frame)) resolve()
      if (JSON.parse(frame).type === 'connection_ack') socket.send({ id: '1', type: 'subscribe', payload: { query, variables } })
    })
  })
  socket.send({ type: 'connection_init', payload: { authorization: `Bearer ${key}` } })
  for (let seen = -1; seen < frames.length; ) {
    seen = frames.length
    await unlessSilent(Promise.race([complete, closed]))
  }
  socket.ws.close()
  const shown = [...frames, await closed].join('\n')
  const payloads = frames.map((frame) => JSON.parse(frame)).filter(({ payload }) => payload)
  return { shown, results: payloads.map(({ payload }) => (Array.isArray(payload) ? { errors: payload } : payload)) }
}

/** Fetches a path: status, headers and body, unpacked. */
export async function overGet({ url, key }: Pick<Request, 'url' | 'key'>): Promise<Answer> {
  const response = await fetch(url, { headers: { authorization: `Bearer ${key}` } })
  const bytes = Buffer.from(await response.arrayBuffer())
  const packed = response.headers.get('content-type') === 'application/gzip'
  return { shown: shownOf(response, String(packed ? gunzipSync(bytes) : bytes)), results: [] }
}

function post({ url, key, query, variables }: Request, accept: string, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/graphql`, {
    method: 'POST',
    signal: signal ?? null,
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}`, accept },
    body: JSON.stringify({ query, variables }),
  })
}

function shownOf({ status, headers }: Response, body: string): string {
  const sent = [...headers].filter(([name]) => name !== 'date').map((header) => header.join(': '))
  return [status, ...sent, body].join('\n')
}

/** What the promise resolves to; undefined when that takes too long. */
async function unlessSilent<T>(promise: Promise<T> | undefined): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const silence = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), patience)
  })
  try {
    return await Promise.race([promise, silence])
  } finally {
    clearTimeout(timer)
  }
}
