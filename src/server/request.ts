import type { IncomingMessage } from 'node:http'
import type { GraphQLParams, Plugin } from 'graphql-yoga'
import { badRequest } from './errors.ts'

/**
 * Reads requests: POST with a JSON body in UTF-8, GET with a query string. Nothing else is accepted, so that no page of
 * another origin can send a request without the browser asking first (CSRF).
 */
export function useStrictRequests(bodyBytes: number): Plugin<object, { req: IncomingMessage }> {
  return {
    onRequestParse({ request, serverContext, setRequestParser }) {
      if (request.method === 'POST') setRequestParser(() => readBody(serverContext.req, bodyBytes))
      if (request.method === 'GET') setRequestParser(() => readQuery(request.url))
    },
  }
}

async function readBody(request: IncomingMessage, limit: number): Promise<GraphQLParams> {
  if (!/^application\/json *(; *charset="?utf-8"?)?$/i.test(request.headers['content-type'] ?? '')) {
    throw badRequest('Send the request as application/json in UTF-8.', 415)
  }
  const text = decode(await readBytes(request, limit))
  return parseJson(text, 'The body') as GraphQLParams
}

async function readBytes(request: IncomingMessage, limit: number): Promise<Buffer> {
  const tooLarge = badRequest(`The body is larger than ${limit} bytes.`, 413)
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge
  const chunks: Buffer[] = []
  let size = 0
  // Leaving early must not destroy the request: its socket carries the answer.
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    size += chunk.length
    if (size > limit) throw tooLarge
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function decode(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw badRequest('The body is not valid UTF-8.')
  }
}

function readQuery(url: string): GraphQLParams {
  const search = new URL(url, 'http://localhost').searchParams
  const object = (name: string) => {
    const text = search.get(name)
    return text ? (parseJson(text, name) as Record<string, unknown>) : undefined
  }
  return {
    query: search.get('query') ?? undefined,
    operationName: search.get('operationName') ?? undefined,
    variables: object('variables'),
    extensions: object('extensions'),
  }
}

function parseJson(text: string, what: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw badRequest(`${what} is not valid JSON.`)
  }
  if (typeof value !== 'object' || value === null) throw badRequest(`${what} is not a JSON object.`)
  return value
}
