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
  request<T>(query: string, variables?: Record<string, unknown>): Promise<Answer<T>>
  /** As `request`, for operations that must succeed: resolves to the data. */
  data<T>(query: string, variables?: Record<string, unknown>): Promise<T>
  socket: Client
  /** Events of a subscription until it completes. */
  events<T>(query: string, variables?: Record<string, unknown>): AsyncIterableIterator<T>
  close(): Promise<void>
}

export function graphqlClient(url: string, key: string): GraphQLClient {
  const endpoint = `${url}/graphql`
  const authorization = `Bearer ${key}`
  const socket = createClient({
    url: endpoint.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: { authorization },
    retryAttempts: 0,
  })
  const client: GraphQLClient = {
    async request(query, variables) {
      const response = await fetch(endpoint, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization },
        body: JSON.stringify({ query, variables }),
      })
      return { status: response.status, headers: response.headers, ...((await response.json()) as { data: never }) }
    },
    async data(query, variables) {
      const { data, errors } = await client.request<never>(query, variables)
      if (errors) throw new Error(JSON.stringify(errors))
      return data
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
