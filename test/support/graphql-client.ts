import { setTimeout as delay } from 'node:timers/promises'
import { type Client, createClient } from 'graphql-ws'
import WebSocket from 'ws'

type Answer<T> = {
  status: number
  headers: Headers
  data: T
  errors?: { message: string; extensions?: Record<string, unknown> }[]
}

/** One client of the public API, as a frontend would be: HTTP for queries and mutations, a socket for subscriptions. */
export type GraphQLClient = {
  request<T>(query: string, variables?: Record<string, unknown>, signal?: AbortSignal): Promise<Answer<T>>
  /** As `request`, for operations that must succeed: resolves to the data. Asks again when there was no answer in time. */
  data<T>(query: string, variables?: Record<string, unknown>): Promise<T>
  socket: Client
  /** Events of a subscription until it completes. */
  events<T>(query: string, variables?: Record<string, unknown>): AsyncIterableIterator<T>
  close(): Promise<void>
}

/** One that does not wait for ever for somebody who accepts connections and says nothing. */
class ImpatientSocket extends WebSocket {
  constructor(url: string, protocols: string[]) {
    super(url, protocols, { handshakeTimeout: handshakeMs })
  }
}

/** How long a server with a pulse may take for the handshake, and then for the credentials, in milliseconds. */
const handshakeMs = 3_000

export type GraphQLClientOptions = {
  /** How often the socket makes sure that the server lives, and how long it waits for a sign of that, in milliseconds. Default: never. */
  pulseMs?: number
}

export function graphqlClient(url: string, key: string, { pulseMs = 0 }: GraphQLClientOptions = {}): GraphQLClient {
  const endpoint = `${url}/graphql`
  const authorization = `Bearer ${key}`
  let impatience: NodeJS.Timeout | undefined
  const socket: Client = createClient({
    url: endpoint.replace(/^http/, 'ws'),
    webSocketImpl: pulseMs > 0 ? ImpatientSocket : WebSocket,
    connectionParams: { authorization },
    retryAttempts: 0,
    keepAlive: pulseMs,
    connectionAckWaitTimeout: pulseMs && handshakeMs,
    on: {
      ping: (received) => {
        if (!received) impatience = setTimeout(() => socket.terminate(), pulseMs)
      },
      pong: () => clearTimeout(impatience),
      closed: () => clearTimeout(impatience),
    },
  })
  const client: GraphQLClient = {
    async request(query, variables, signal) {
      const response = await fetch(endpoint, {
        ...{ method: 'POST', ...(signal && { signal }) },
        headers: { 'content-type': 'application/json', authorization },
        body: JSON.stringify({ query, variables }),
      })
      return { status: response.status, headers: response.headers, ...((await response.json()) as { data: never }) }
    },
    async data(query, variables) {
      for (let tries = 1; ; tries++) {
        const { data, errors } = await client.request<never>(query, variables)
        if (!errors) return data
        // A process that has only just begun, on a machine that has other work, may take longer than an answer may.
        if (tries === 4 || !errors[0]?.message.startsWith('There was no answer in time.')) throw new Error(JSON.stringify(errors))
        await delay(250)
      }
    },
    socket,
    async *events<T>(query: string, variables?: Record<string, unknown>) {
      for await (const { data, errors } of socket.iterate({ query, variables })) {
        if (errors) throw new Error(JSON.stringify(errors))
        yield data as T
      }
    },
    async close() {
      await socket.dispose()
    },
  }
  return client
}
