import { createServer } from 'node:net'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { type Authenticator, createAuthenticator } from '../../src/domain/authenticate.ts'
import { createServer as createPlatformServer, type Server } from '../../src/server/server.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { openSocket } from '../support/raw-socket.ts'

let platform: TestPlatform
let server: Server
let url: string
let data: TenantData
let catalog: Catalog
let authenticate: Authenticator

/** A port that nothing listens on. */
async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => probe.once('listening', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise((resolve) => probe.close(resolve))
  return port
}

beforeAll(async () => {
  platform = await startTestPlatform()
  const connectionString = `postgres://bulkhead_app@127.0.0.1:${await freePort()}/away`
  data = new TenantData(new TenantPool({ connectionString }))
  catalog = new Catalog({ connectionString })
  const { ports, settings } = platform.story
  const away = createAuthenticator({ data, catalog, ports, settings })
  // Who is signed in already, and whose rows are away.
  const signedIn: Authenticator = async (credential) => {
    const principal = await platform.story.authenticate(credential)
    if (principal?.kind !== 'tenant') return null
    const { scope } = principal
    return { ...principal, scope: { ...scope, db: data.of({ tenantId: scope.tenant.id, userId: scope.actor.userId }) } }
  }
  authenticate = (credential) => (credential === platform.globex.keys.admin ? away(credential) : signedIn(credential))
  server = createPlatformServer({
    authenticate: (credential) => authenticate(credential),
    signals: ports.signals,
    accessVersions: (tenantIds) => catalog.tenants.accessVersions(tenantIds),
    logger: pino({ level: 'silent' }),
    development: true,
    isReady: () => catalog.isReachable(),
  })
  url = (await server.listen(0, '127.0.0.1')).url
})

afterAll(async () => {
  await server.close(1_000)
  await Promise.all([data.close(), catalog.close()])
  await platform.stop()
})

function ask(query: string, key: string) {
  return fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify({ query }),
  })
}

describe('while the database is away', () => {
  it.each([
    ['credentials', () => platform.globex.keys.admin, '{ viewer { role } }'],
    ['a query', () => platform.acme.keys.admin, '{ conversations { edges { cursor } } }'],
    ['a mutation', () => platform.acme.keys.admin, 'mutation { createConversation(input: {}) { __typename } }'],
  ])('%s end in SERVICE_UNAVAILABLE, with the time to come back', async (_what, key, query) => {
    const response = await ask(query, key())
    expect(response.status).toBe(503)
    const { errors } = (await response.json()) as { errors: { message: string; extensions: Record<string, unknown> }[] }
    expect(errors[0]?.extensions).toEqual({ code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: expect.any(Number) })
    expect(response.headers.get('retry-after')).toBe(String(errors[0]?.extensions['retryAfterSeconds']))
    expect(JSON.stringify(errors)).not.toMatch(/127\.0\.0\.1|ECONN|prisma/i)
  })

  it('a socket is told to try again later', async () => {
    const socket = await openSocket(url)
    socket.send({ type: 'connection_init', payload: { authorization: `Bearer ${platform.globex.keys.admin}` } })
    expect(await socket.closed).toBe(1013)
  })

  it('the process lives and says that it is not ready', async () => {
    expect((await fetch(`${url}/health/live`)).status).toBe(200)
    expect((await fetch(`${url}/health/ready`)).status).toBe(503)
    expect((await ask('{ __typename }', '')).status).toBe(200)
  })
})
