import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'

export type ReceivedCall = { id: string; path: string; headers: Record<string, string>; body: string }

export type WebhookReceiver = {
  url: string
  port: number
  calls: ReceivedCall[]
  /** Answers every call from now on. Default: 204. */
  answer: (call: ReceivedCall, response: ServerResponse, request: IncomingMessage) => void
  close(): Promise<void>
}

/** Somebody's server on loopback that notes every call as soon as it is there whole. */
export async function startWebhookReceiver(): Promise<WebhookReceiver> {
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray()).toString()
    const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]))
    const call = { id: headers['webhook-id'] ?? '', path: request.url ?? '', headers, body }
    receiver.calls.push(call)
    receiver.answer(call, response, request)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const receiver: WebhookReceiver = {
    ...{ url: `http://127.0.0.1:${port}/hook`, port, calls: [] },
    answer: (_call, response) => void response.writeHead(204).end(),
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
  return receiver
}

/** The payload, when the secret's owner signed it lately; else throws. As the receivers of customers do it. */
export function verified({ body, headers }: ReceivedCall, secret: string): unknown {
  return new Webhook(secret).verify(body, headers)
}
