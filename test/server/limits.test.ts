// @module-tag edge-floods
import pg from 'pg'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createServer, type Server } from '../../src/server/server.ts'
import { openEventSource } from '../support/event-source.ts'
import { floods } from '../support/floods.ts'
import { type RawSocket, signIn } from '../support/raw-socket.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story
let server: Server
let url: string
let key: string
let socket: RawSocket
/** What this process has sent to Postgres, whoever sent it. */
const sent: unknown[] = []
const { query } = pg.Client.prototype

beforeAll(async () => {
  story = await startStory()
  key = (await story.tenant()).keys.member
  server = createServer({
    authenticate: story.authenticate,
    signals: story.ports.signals,
    accessVersions: (tenantIds) => story.catalog.tenants.accessVersions(tenantIds),
    // What the server asks by itself is not counted.
    limits: { pollMs: 600_000 },
    logger: pino({ level: 'silent' }),
    development: true,
    isReady: async () => true,
  })
  url = (await server.listen(0, '127.0.0.1')).url
  socket = await signIn(url, key)
  function observed(this: pg.Client, ...args: unknown[]) {
    sent.push(args[0])
    return Reflect.apply(query, this, args)
  }
  pg.Client.prototype.query = observed as typeof query
})

afterAll(async () => {
  pg.Client.prototype.query = query
  await server.close(1_000)
  await story.close()
})

type Answer = { errors?: { message: string; extensions?: { code?: string } }[] }

const headers = () => ({ authorization: `Bearer ${key}`, accept: 'application/json' })

/** Each way to send an operation, with how it is answered. */
const transports: Record<string, (query: string) => Promise<Answer>> = {
  async POST(query) {
    const body = JSON.stringify({ query })
    const response = await fetch(`${url}/graphql`, {
      method: 'POST',
      headers: { ...headers(), 'content-type': 'application/json' },
      body,
    })
    return (await response.json()) as Answer
  },
  async GET(query) {
    const response = await fetch(`${url}/graphql?${new URLSearchParams({ query })}`, { headers: headers() })
    return (await response.json()) as Answer
  },
  async 'server-sent events'(query) {
    return (await (await openEventSource(url, key, { query })).next())?.data as Answer
  },
  async 'a socket'(query) {
    socket.send({ id: '1', type: 'subscribe', payload: { query } })
    const { type, payload } = await socket.next()
    return type === 'error' ? { errors: payload as Answer['errors'] } : (payload as Answer)
  },
}

describe.each(Object.keys(transports))('over %s, a flood', (transport) => {
  const ask = (query: string) => transports[transport]?.(query)

  // What Node reads of a request line is shorter than these.
  const fitting = floods.filter(([, query]) => transport !== 'GET' || encodeURIComponent(query).length < 15_000)

  it.each(fitting)('of %s is refused before anything is asked of Postgres', async (_what, query, message) => {
    sent.length = 0
    expect(await ask(query)).toMatchObject({
      errors: [{ message: expect.stringMatching(message), extensions: { code: 'BAD_USER_INPUT' } }],
    })
    expect(sent).toEqual([])
  })

  it('is not what a frontend asks for', async () => {
    sent.length = 0
    expect((await ask('{ viewer { role } }'))?.errors).toBeUndefined()
    expect(sent).not.toEqual([])
    if (transport === 'a socket') expect(await socket.next()).toEqual({ id: '1', type: 'complete' })
    const page = '{ conversations(first: 50) { edges { node { id title messages(last: 50) { edges { node { content } } } } } } }'
    expect((await ask(page))?.errors).toBeUndefined()
  })
})

it('of operations in one request is refused before anything is asked of Postgres', async () => {
  sent.length = 0
  const body = JSON.stringify(Array.from({ length: 1_000 }, () => ({ query: '{ viewer { role } }' })))
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { ...headers(), 'content-type': 'application/json' },
    body,
  })
  expect(response.status).toBe(400)
  expect(sent).toEqual([])
})
