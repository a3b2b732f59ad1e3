import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { openSocket, signIn } from '../support/raw-socket.ts'

const answerMs = 400
let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform({ limits: { answerMs } })
})
afterAll(() => platform.stop())

/** Does `work` while nobody else gets at the table. */
async function whileHeld(table: string, work: () => Promise<void>): Promise<void> {
  const admin = new pg.Client({ connectionString: platform.story.database.adminUrl })
  await admin.connect()
  await admin.query(`begin; lock table ${table} in access exclusive mode`)
  try {
    await work()
  } finally {
    await admin.end()
  }
}

const unavailable = { extensions: { code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: 2 } }

describe('what the database does not answer in time is answered as unavailable', () => {
  it.each([
    ['a query', 'conversations', '{ conversations { edges { cursor } } }'],
    ['a mutation', 'conversations', 'mutation { createConversation(input: {}) { __typename } }'],
    ['credentials', 'api_keys', '{ viewer { role } }'],
  ])('%s', async (_what, table, query) => {
    const { client } = platform.api(platform.acme.keys.admin)
    await whileHeld(table, async () => {
      const startedAt = performance.now()
      const { status, headers, errors } = await client.request(query)
      expect(performance.now() - startedAt).toBeGreaterThan(answerMs - 50)
      expect(status).toBe(503)
      expect(headers.get('retry-after')).toBe('2')
      expect(errors).toMatchObject([unavailable])
    })
    expect((await client.request(query)).status).toBe(200)
  })

  it('an operation on a socket', async () => {
    const socket = await signIn(platform.url, platform.acme.keys.admin)
    await whileHeld('conversations', async () => {
      socket.send({ id: '1', type: 'subscribe', payload: { query: '{ conversations { edges { cursor } } }' } })
      expect(await socket.next()).toMatchObject({ id: '1', payload: { errors: [unavailable] } })
    })
    socket.ws.close()
  })

  it('the credentials of a socket', async () => {
    await whileHeld('api_keys', async () => {
      const socket = await openSocket(platform.url)
      socket.send({ type: 'connection_init', payload: { authorization: `Bearer ${platform.acme.keys.admin}` } })
      expect(await socket.closed).toBe(1013)
    })
  })
})
