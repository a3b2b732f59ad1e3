import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { createServer } from '../../src/server/server.ts'
import { revokeApiKeyMutation } from '../operations/api-key.ts'
import { viewerQuery } from '../operations/viewer.ts'
import { begin, say } from '../support/conversing.ts'
import { adminQuery } from '../support/database-url.ts'
import { stallsAfter } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { openSocket, type RawSocket, signIn } from '../support/raw-socket.ts'

let platform: TestPlatform
let key: string

beforeAll(async () => {
  platform = await startTestPlatform({
    limits: { connectionInitMs: 200, keepAliveMs: 2_000, operationsPerSocket: 3, subscriptions: 20, bodyBytes: 100_000 },
    allowedOrigins: ['https://app.example'],
  })
  key = platform.acme.keys.admin
  platform.upstream.when(({ lastMessage }) => lastMessage.includes('story'), stallsAfter('Once'))
})

afterAll(() => platform.stop())

const query = { id: '1', type: 'subscribe', payload: { query: '{ viewer { role } }' } }

async function close(socket: RawSocket): Promise<void> {
  socket.ws.close()
  await socket.closed
}

/** A new key for an end user, with the global id by which it can be revoked. */
async function newKey(userId: string) {
  const { endUser, key } = await platform.story.endUser(platform.acme.admin, userId)
  return { key, uuid: endUser.actor.id, id: encodeId('ApiKey', endUser.actor.id) }
}

/** Starts an answer that never ends and a subscription to it. */
async function follow(socket: RawSocket, id: string, as = key) {
  const { runId } = await say(platform.api(as), 'Tell me a story.')
  const agentReply = `subscription { agentReply(runId: "${runId}") { __typename } }`
  socket.send({ id, type: 'subscribe', payload: { query: agentReply } })
  return runId
}

describe('a handshake', { tags: ['edge-hijack'] }, () => {
  it('is refused on another path', async () => {
    await expect(openSocket(`${platform.url}/elsewhere`)).rejects.toThrow('404')
  })

  it.each([
    ['https://evil.example', '403'],
    ['null', '403'],
    ['http://127.0.0.1:1', '403'],
  ])('is refused for a page of %s', async (origin, status) => {
    await expect(openSocket(platform.url, { origin })).rejects.toThrow(status)
  })

  it('that is refused lets go of a client that stays, and may be reset by one that does not', async () => {
    const { hostname, port } = new URL(platform.url)
    const upgrade = 'GET /elsewhere HTTP/1.1\r\nHost: bulkhead\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
    const staying = connect({ port: Number(port), host: hostname, allowHalfOpen: true })
    staying.write(upgrade)
    staying.resume()
    await once(staying, 'end')
    const poke = setInterval(() => staying.write('still here'), 5)
    await once(staying, 'error')
    clearInterval(poke)

    for (let count = 0; count < 50; count++) {
      const leaving = connect(Number(port), hostname)
      await once(leaving, 'connect')
      leaving.write(upgrade)
      leaving.resetAndDestroy()
    }
    // An error that nobody heard would end the process, and here fail the run.
    await expect(openSocket(`${platform.url}/elsewhere`)).rejects.toThrow('404')
  })

  it('is accepted for the own pages, those of allowed origins, and programs', async () => {
    for (const options of [{ origin: platform.url }, { origin: 'https://app.example' }, {}]) {
      await close(await openSocket(platform.url, options))
    }
  })

  it('that carries credentials as a browser would by itself, in a cookie or a header, signs nobody in', async () => {
    for (const name of ['cookie', 'authorization']) {
      const credential = name === 'cookie' ? `authorization=Bearer ${key}; session=${key}` : `Bearer ${key}`
      const socket = await openSocket(platform.url, { origin: platform.url, headers: { [name]: credential } })
      socket.send({ type: 'connection_init' })
      expect(await socket.closed).toBe(4401)
    }
  })

  it('of another protocol is not agreed to', async () => {
    await expect(openSocket(platform.url, {}, 'graphql-ws')).rejects.toThrow('no subprotocol')
  })
})

describe('a socket', () => {
  it.each([
    ['nothing', undefined],
    ['no credentials', {}],
    ['a wrong key', { authorization: 'Bearer nonsense' }],
    ['a key under another name', { Authorization: 'Bearer nonsense' }],
    ['credentials of another type', { authorization: { key: 1 } }],
  ])('that sends %s is closed with 4401', async (_what, payload) => {
    const socket = await openSocket(platform.url)
    socket.send({ type: 'connection_init', payload })
    expect(await socket.closed).toBe(4401)
  })

  it('that asks before it has signed in is closed with 4401', async () => {
    const socket = await openSocket(platform.url)
    socket.send(query)
    expect(await socket.closed).toBe(4401)
  })

  it('that does not sign in is closed', async () => {
    expect(await (await openSocket(platform.url)).closed).toBe(4408)
  })

  it.each([
    ['no JSON', '{', 4400],
    ['an unknown message', { type: 'start' }, 4400],
    ['more than it may', 'x'.repeat(100_001), 1009],
  ])('that sends %s is closed', async (_what, message, code) => {
    const socket = await signIn(platform.url, key)
    socket.send(message)
    expect(await socket.closed).toBe(code)
  })

  it('that sends text which is not UTF-8 is closed', async () => {
    const socket = await signIn(platform.url, key)
    socket.ws.send(Buffer.from([0xc3, 0x28]), { binary: false })
    expect(await socket.closed).toBe(1007)
  })

  it('that no longer answers is closed', async () => {
    const socket = await signIn(platform.url, key, { autoPong: false })
    expect(await socket.closed).toBe(1006)
  })

  it('that answers stays open', async () => {
    const socket = await signIn(platform.url, key)
    await delay(500)
    socket.send(query)
    expect(await socket.next()).toMatchObject({ type: 'next', payload: { data: { viewer: { role: 'ADMIN' } } } })
    await close(socket)
  })
})

describe('an operation on a socket', () => {
  it('is answered, and completes', async () => {
    const socket = await signIn(platform.url, key)
    socket.send(query)
    expect(await socket.next()).toEqual({ id: '1', type: 'next', payload: { data: { viewer: { role: 'ADMIN' } } } })
    expect(await socket.next()).toEqual({ id: '1', type: 'complete' })
    await close(socket)
  })

  it.each(['{ viewer {', '{ viewer { nothing } }', `{ ${'viewer { role } '.repeat(1_000)} }`])(
    'that is not valid is a coded error: %.24s',
    async (text) => {
      const socket = await signIn(platform.url, key)
      socket.send({ id: '1', type: 'subscribe', payload: { query: text } })
      const { type, payload } = (await socket.next()) as { type: string; payload: { extensions: object }[] }
      expect([type, payload[0]?.extensions]).toEqual(['error', { code: 'BAD_USER_INPUT' }])
      await close(socket)
    },
  )

  it('that subscribes to a run nobody has is NOT_FOUND', { tags: ['rule-12'] }, async () => {
    const socket = await signIn(platform.url, key)
    const other = await say(platform.api(platform.globex.keys.admin), 'Hello.')
    const answers = []
    for (const runId of ['nonsense', encodeId('Run', platform.acme.tenant.id), other.runId]) {
      socket.send({
        id: '1',
        type: 'subscribe',
        payload: { query: `subscription { agentReply(runId: "${runId}") { __typename } }` },
      })
      answers.push(await socket.next())
      await socket.next()
    }
    expect(answers[0]).toMatchObject({ payload: { errors: [{ extensions: { code: 'NOT_FOUND' } }] } })
    expect(answers).toEqual([answers[0], answers[0], answers[0]])
    await close(socket)
  })

  it('is refused above the number that one socket carries', { tags: ['edge-subscriptions'] }, async () => {
    const socket = await signIn(platform.url, key)
    for (const id of ['a', 'b', 'c']) {
      await follow(socket, id)
      expect(await socket.next()).toMatchObject({ id, type: 'next' })
    }
    socket.send(query)
    expect(await socket.next()).toMatchObject({
      id: '1',
      type: 'error',
      payload: [{ message: expect.stringContaining('at most 3') }],
    })
    socket.send({ id: 'a', type: 'complete' })
    socket.send({ ...query, id: '2' })
    expect(await socket.next()).toMatchObject({ id: '2', type: 'next' })
    await close(socket)
  })

  it('is refused above twice that number when ids are used again before their operations have ended', {
    tags: ['edge-subscriptions'],
  }, async () => {
    const socket = await signIn(platform.url, key)
    const { runId } = await say(platform.api(key), 'Tell me a story.')
    const payload = { query: `subscription { agentReply(runId: "${runId}") { __typename } }` }
    // In one go: none is further than getting ready when its id is let go.
    for (let use = 0; use < 50; use++) {
      socket.send({ id: '1', type: 'subscribe', payload })
      socket.send({ id: '1', type: 'complete' })
    }
    socket.send({ ...query, id: 'last' })
    // Those before it may be told so, too, as long as nobody has let go of them.
    let answer = await socket.next()
    while (answer['id'] !== 'last') answer = await socket.next()
    expect(answer).toMatchObject({
      type: 'error',
      payload: [{ message: expect.stringContaining('at most 3') }],
    })
    await close(socket)
  })

  it('whose id is used again ends with its socket all the same', { tags: ['edge-subscriptions'] }, async () => {
    for (let count = 0; count < 8; count++) {
      const socket = await signIn(platform.url, key)
      const { runId } = await say(platform.api(key), 'Tell me a story.')
      const payload = { query: `subscription { agentReply(runId: "${runId}") { __typename } }` }
      for (let use = 0; use < 3; use++) {
        socket.send({ id: '1', type: 'subscribe', payload })
        if (use < 2) socket.send({ id: '1', type: 'complete' })
      }
      for (let use = 0; use < 3; use++) await socket.next()
      await close(socket)
    }
    // Had they not ended, they would be more than this server carries.
    const socket = await signIn(platform.url, key)
    await follow(socket, '1')
    expect(await socket.next()).toMatchObject({ type: 'next', payload: { data: { agentReply: { __typename: 'TextDelta' } } } })
    await close(socket)
  })

  it('whose id is taken closes the socket with 4409, however long the id', async () => {
    const socket = await signIn(platform.url, key)
    const id = 'x'.repeat(1_000)
    await follow(socket, id)
    socket.send({ ...query, id })
    expect(await socket.closed).toBe(4409)
  })

  it('needs a key that is still valid', { tags: ['rule-17'] }, async () => {
    const { key: doomed, uuid } = await newKey('checked')
    const socket = await signIn(platform.url, doomed)
    await platform.acme.admin.db.apiKey.updateMany({ where: { id: uuid }, data: { revokedAt: new Date() } })
    socket.send(query)
    expect(await socket.closed).toBe(4401)
  })
})

describe('a message that is sent over a socket', { tags: ['rule-17'] }, () => {
  const send = (conversationId: string) =>
    `sendMessage(input: { conversationId: "${conversationId}", content: "Hi" }) { __typename }`
  const operation = (document: string) => ({ id: '1', type: 'subscribe', payload: { query: document } })

  it('costs no look at the key of its own, and nothing else is let off', async () => {
    const { story, acme } = platform
    let looks = 0
    const server = createServer({
      authenticate(credential) {
        looks += 1
        return story.authenticate(credential)
      },
      signals: story.ports.signals,
      accessVersions: async () => new Map(),
      logger: pino({ level: 'silent' }),
      development: true,
      isReady: async () => true,
    })
    const { url } = await server.listen(0, '127.0.0.1')
    const conversationId = await begin(platform.api(acme.keys.member))
    const socket = await signIn(url, acme.keys.member)
    const looksFor = async (document: string) => {
      const before = looks
      socket.send(operation(document))
      expect(await socket.next()).toMatchObject({ type: 'next', payload: { data: expect.any(Object) } })
      expect(await socket.next()).toMatchObject({ type: 'complete' })
      return looks - before
    }
    const message = send(conversationId)
    expect(await looksFor(`mutation { ${message} }`)).toBe(0)
    expect(await looksFor(`mutation { a: ${message} b: ${message} }`)).toBe(0)
    for (const document of [
      '{ viewer { role } }',
      'mutation { createConversation(input: {}) { __typename } }',
      `mutation { ${message} createConversation(input: {}) { __typename } }`,
      `mutation { ${message} __typename }`,
      `mutation { ...it } fragment it on Mutation { ${message} }`,
    ])
      expect(await looksFor(document)).toBe(1)
    await close(socket)
    await server.close(100)
  })

  it('is not sent with a key that is not valid any more, and its socket is closed', async () => {
    const { key: doomed, uuid } = await newKey('hasty')
    const conversationId = await begin(platform.api(doomed))
    const socket = await signIn(platform.url, doomed)
    const { db } = platform.acme.admin
    await db.apiKey.updateMany({ where: { id: uuid }, data: { revokedAt: new Date() } })
    socket.send(operation(`mutation { ${send(conversationId)} }`))
    expect(await socket.closed).toBe(4401)
    expect(await db.message.count({ where: { run: { apiKeyId: uuid } } })).toBe(0)
  })

  it('is sent once its tenant is moved, over a socket that was opened meanwhile', async () => {
    const { story, acme } = platform
    const conversationId = await begin(platform.api(acme.keys.member))
    const set = (status: string) =>
      adminQuery(story.database.adminUrl, `update tenants set status = '${status}' where id = '${acme.tenant.id}'`)
    await set('MOVING')
    onTestFinished(() => set('ACTIVE'))
    const socket = await signIn(platform.url, acme.keys.member)
    const sent = async () => {
      socket.send(operation(`mutation { ${send(conversationId)} }`))
      const answer = await socket.next()
      await socket.next()
      return answer
    }
    expect(await sent()).toMatchObject({ payload: { errors: [{ extensions: { code: 'SERVICE_UNAVAILABLE' } }] } })
    await set('ACTIVE')
    expect(await sent()).toMatchObject({ payload: { data: { sendMessage: { __typename: 'SendMessagePayload' } } } })
    await close(socket)
  })

  it('is not sent with a key that has expired', async () => {
    const { key: brief, uuid } = await newKey('brief')
    const conversationId = await begin(platform.api(brief))
    const { database, advance } = platform.story
    await adminQuery(database.adminUrl, `update api_keys set expires_at = now() + interval '1 hour' where id = '${uuid}'`)
    const socket = await signIn(platform.url, brief)
    advance(3_600_001)
    onTestFinished(() => advance(-3_600_001))
    socket.send(operation(`mutation { ${send(conversationId)} }`))
    expect(await socket.closed).toBe(4401)
    expect(await platform.acme.admin.db.message.count({ where: { run: { apiKeyId: uuid } } })).toBe(0)
  })
})

describe('a key', { tags: ['rule-17'] }, () => {
  it('that is revoked ends its sockets at once, and no others', async () => {
    const doomed = await newKey('revoked')
    const [socket, other] = await Promise.all([signIn(platform.url, doomed.key), signIn(platform.url, key)])
    await follow(socket, 's', doomed.key)
    expect(await socket.next()).toMatchObject({ id: 's', type: 'next' })
    await platform.api(key).data(revokeApiKeyMutation, { input: { apiKeyId: doomed.id } })
    expect(await socket.closed).toBe(4401)
    other.send(query)
    expect(await other.next()).toMatchObject({ type: 'next' })
    await close(other)
  })

  it('whose revocation was not heard of ends its sockets at the next check', async () => {
    const attentive = await startTestPlatform({ limits: { pollMs: 50 } })
    const { admin } = attentive.acme
    const { endUser, key: doomed } = await attentive.story.endUser(admin, 'unheard')
    const socket = await signIn(attentive.url, doomed)
    await admin.db.apiKey.updateMany({ where: { id: endUser.actor.id }, data: { revokedAt: new Date() } })
    expect(await socket.closed).toBe(4401)
    await attentive.stop()
  })

  it('whose revocation was not heard of ends what began with the check before it, too', async () => {
    const { key: doomed, uuid } = await newKey('late')
    const { runId } = await say(platform.api(doomed), 'Tell me a story.')
    const socket = await signIn(platform.url, doomed)
    await platform.acme.admin.db.apiKey.updateMany({ where: { id: uuid }, data: { revokedAt: new Date() } })
    socket.send({
      id: 's',
      type: 'subscribe',
      payload: { query: `subscription { agentReply(runId: "${runId}") { __typename } }` },
    })
    // The next check may be faster than the stream.
    const first = await Promise.race([socket.next(), socket.closed.then(() => null)])
    expect([null, 'next']).toContain(first && (first as { type: string }).type)
    expect(await socket.closed).toBe(4401)
  })

  it('works for the graphql-ws client as well', async () => {
    const events = platform.api(key).follow(viewerQuery)
    expect((await events.next()).value?.viewer.role).toBe('ADMIN')
    expect((await events.next()).done).toBe(true)
  })
})
