import { once } from 'node:events'
import { WebSocket } from 'ws'
import { countTokens, messageFor, type Order, type Reader, type Streamer } from './contender.ts'

const createConversation =
  'mutation { createConversation(input: { title: "bench" }) { ... on CreateConversationPayload { conversation { id } } } }'
const sendMessage = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { code message } } }`
const startOf = 'query ($runId: ID!) { run(id: $runId) { startedAt } }'
const agentReply = `subscription ($runId: ID!) { agentReply(runId: $runId) {
  __typename
  ... on TextDelta { cursor text }
  ... on Snapshot { cursor text }
  ... on RunCompleted { cursor finishReason usage { inputTokens outputTokens } }
  ... on RunFailed { cursor failure { code message } }
  ... on Lagged { resumeAfter }
} }`

/**
 * This platform. Each reader is a signed-in socket of one of the tenants, and says each message in a new conversation. With `tellsStart`
 * it asks, after each answer, when that was begun.
 */
export function bulkhead(
  name: string,
  { processes, database }: Pick<Streamer, 'processes' | 'database'>,
  url: string,
  keys: readonly string[],
  { tellsStart = false } = {},
): Streamer {
  let opened = 0
  return {
    name,
    processes,
    database,
    async open() {
      const key = keys[opened++ % keys.length] ?? ''
      return openReader(url, key, tellsStart)
    },
  }
}

async function openReader(url: string, key: string, tellsStart: boolean): Promise<Reader> {
  const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/graphql`, 'graphql-transport-ws', { perMessageDeflate: false })
  await once(socket, 'open')
  const operations = new Map<string, (message: Buffer, type: string) => void>()
  const send = (message: object) => socket.send(JSON.stringify(message))
  send({ type: 'connection_init', payload: { authorization: `Bearer ${key}` } })
  await once(socket, 'message')
  socket.on('message', (data: Buffer) => {
    const [, id = '', type = ''] = /^\{"id":"([^"]+)","type":"(\w+)"/.exec(data.toString('latin1', 0, 60)) ?? []
    operations.get(id)?.(data, type)
  })
  let count = 0
  let conversationId = ''

  /** The data of an operation that has one result. */
  function single<Data>(query: string, variables: object): Promise<Data> {
    const id = String(++count)
    return new Promise((resolve, reject) => {
      operations.set(id, (message, type) => {
        operations.delete(id)
        const { payload } = JSON.parse(String(message))
        if (type === 'next' && payload.data) resolve(payload.data)
        // As a client does that is told to come again. It costs the time that it takes.
        else if (String(message).includes('SERVICE_UNAVAILABLE')) setTimeout(() => resolve(single(query, variables)), 200)
        else reject(new Error(String(message)))
      })
      send({ id, type: 'subscribe', payload: { query, variables } })
    })
  }

  function follow(runId: string, { tokens }: Order, began: number): Promise<number> {
    const id = String(++count)
    let firstToken = Number.NaN
    let read = 0
    let last: Buffer
    return new Promise((resolve, reject) => {
      operations.set(id, (message, type) => {
        if (type === 'next') {
          // All text so far: who comes right after the end is told so.
          const isWhole = message.includes('"__typename":"Snapshot"')
          read = countTokens(message) + (isWhole ? 0 : read)
          if (read > 0 && Number.isNaN(firstToken)) firstToken = performance.now() - began
          last = message
          return
        }
        operations.delete(id)
        if (read === tokens) resolve(firstToken)
        else reject(new Error(`${read} of ${tokens} tokens, then ${last} and ${message}`))
      })
      send({ id, type: 'subscribe', payload: { query: agentReply, variables: { runId } } })
    })
  }

  return {
    async prepare() {
      const data = await single<{ createConversation: { conversation: { id: string } } }>(createConversation, {})
      conversationId = data.createConversation.conversation.id
    },
    async ask(order) {
      const [began, asked] = [performance.now(), Date.now()]
      const input = { conversationId, content: messageFor(order) }
      const data = await single<{ sendMessage: { run?: { id: string }; message?: string } }>(sendMessage, { input })
      if (!data.sendMessage.run) throw new Error(`The message was refused: ${data.sendMessage.message}`)
      const runId = data.sendMessage.run.id
      const firstToken = await follow(runId, order, began)
      if (!tellsStart) return { firstToken }
      // By the database's clock, which is the same machine's.
      const { run } = await single<{ run: { startedAt: string } }>(startOf, { runId })
      return { firstToken, started: Date.parse(run.startedAt) - asked }
    },
    close: () => socket.terminate(),
  }
}
