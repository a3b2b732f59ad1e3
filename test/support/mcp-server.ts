import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { NodeStreamableHTTPServerTransport } from '@modelcontextprotocol/node'
import { McpServer } from '@modelcontextprotocol/server'

/** What a server was asked: by which method of HTTP and of MCP, and with which headers and parameters. */
export type McpRequest = { method: string; rpc: string | null; params: unknown; headers: Record<string, string> }

export type TestMcpServer = {
  url: string
  port: number
  requests: McpRequest[]
  /** What the server has, from now on. */
  register: (server: McpServer) => void
  /** Answers in the place of the SDK's server when it is not null. */
  answer: ((request: McpRequest & { id: unknown }, response: ServerResponse) => void) | null
  close(): Promise<void>
}

/** A server of the official SDK over Streamable HTTP on loopback, which notes all that it is asked. */
export async function startMcpServer(register: TestMcpServer['register']): Promise<TestMcpServer> {
  const http = createServer(async (request, response) => {
    const body = await bodyOf(request)
    const asked = { method: request.method ?? '', rpc: body?.method ?? null, params: body?.params, headers: headersOf(request) }
    server.requests.push(asked)
    if (server.answer) return server.answer({ ...asked, id: body?.id }, response)
    const mcp = new McpServer({ name: 'test', version: '1' })
    server.register(mcp)
    const transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: undefined })
    await mcp.connect(transport)
    await transport.handleRequest(request, response, body)
  })
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  const { port } = http.address() as AddressInfo
  const server: TestMcpServer = {
    ...{ url: `http://127.0.0.1:${port}/mcp`, port, requests: [], register, answer: null },
    close: async () => {
      http.closeAllConnections()
      http.close()
      await once(http, 'close')
    },
  }
  return server
}

async function bodyOf(request: IncomingMessage): Promise<{ id?: unknown; method?: string; params?: unknown } | undefined> {
  const text = Buffer.concat(await request.toArray()).toString()
  return text === '' ? undefined : JSON.parse(text)
}

function headersOf(request: IncomingMessage): Record<string, string> {
  return Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]))
}

/** Answers a JSON-RPC request with a result. */
export function reply(response: ServerResponse, id: unknown, result: unknown): void {
  response.writeHead(id === undefined ? 202 : 200, { 'content-type': 'application/json' })
  response.end(id === undefined ? undefined : JSON.stringify({ jsonrpc: '2.0', id, result }))
}

/** What a server says of itself when it is connected to. */
export const hello = { protocolVersion: '2025-06-18', capabilities: { tools: {} }, serverInfo: { name: 'test', version: '1' } }
