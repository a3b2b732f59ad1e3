// @module-tag edge-csrf
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MemorySignals } from '../../src/memory/signals.ts'
import { createServer, type Server } from '../../src/server/server.ts'

let server: Server
let url: string

beforeAll(async () => {
  server = createServer({
    authenticate: async () => null,
    signals: new MemorySignals({ onError: () => undefined }),
    accessVersions: async () => new Map(),
    logger: pino({ level: 'silent' }),
    development: false,
    allowedOrigins: ['https://app.example', 'https://admin.example'],
    isReady: async () => true,
  })
  url = (await server.listen(0, '127.0.0.1')).url
})

afterAll(() => server.close(1_000))

async function preflight(origin: string) {
  const { headers } = await fetch(`${url}/graphql`, {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization' },
  })
  return {
    origin: headers.get('access-control-allow-origin'),
    credentials: headers.get('access-control-allow-credentials'),
    headers: headers.get('access-control-allow-headers'),
  }
}

describe('pages of another origin', () => {
  it.each(['https://app.example', 'https://admin.example'])('may call the API when they are allowed to: %s', async (origin) => {
    expect(await preflight(origin)).toEqual({ origin, credentials: null, headers: 'authorization, content-type, last-event-id' })
  })

  it('may not otherwise', async () => {
    expect((await preflight('https://evil.example')).origin).not.toBe('https://evil.example')
  })
})
