import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createServer } from '../../src/server/server.ts'
import { createApiKeyMutation, revokeApiKeyMutation } from '../operations/api-key.ts'
import { say } from '../support/conversing.ts'
import { openEventSource } from '../support/event-source.ts'
import { says, stallsAfter } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let key: string

beforeAll(async () => {
  platform = await startTestPlatform()
  key = platform.acme.keys.member
  platform.upstream.when(({ lastMessage }) => lastMessage.startsWith('Count slowly'), says('One two three.', { delayMs: 100 }))
  platform.upstream.when(({ lastMessage }) => lastMessage.startsWith('Count'), says('One two three.'))
  platform.upstream.when(({ lastMessage }) => lastMessage.includes('story'), stallsAfter('Once'))
})

afterAll(() => platform.stop())

const agentReply = `subscription ($runId: ID!, $after: String) {
  agentReply(runId: $runId, after: $after) { __typename ... on TextDelta { text } ... on RunCompleted { message { content } } }
}`

type Reply = { data: { agentReply: { __typename: string; text?: string } } }

describe('a subscription over server-sent events', () => {
  it('delivers every event under its cursor, then completes', async () => {
    const { runId } = await say(platform.api(key), 'Count slowly.')
    const { status, headers, rest } = await openEventSource(platform.url, key, { query: agentReply, variables: { runId } })
    expect([status, headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
    const all = await rest()
    expect(all.at(-1)).toEqual({ event: 'complete', id: null, data: null })
    const replies = all.slice(0, -1)
    expect(replies.every(({ event, id }) => event === 'next' && /^\d+-\d+$/.test(id ?? ''))).toBe(true)
    expect(replies.at(-1)?.data).toEqual({
      data: { agentReply: { __typename: 'RunCompleted', message: { content: 'One two three.' } } },
    })
    const text = replies.map(({ data }) => (data as Reply).data.agentReply.text ?? '').join('')
    expect(text).toBe('One two three.')
  })

  it('goes on after Last-Event-ID, whatever `after` says', async () => {
    const { runId } = await say(platform.api(key), 'Count slowly.')
    const open = (variables: object, headers = {}) =>
      openEventSource(platform.url, key, { query: agentReply, variables: { runId, ...variables } }, headers)
    const live = await (await open({})).rest()
    // Pieces that wait for the same reader are one.
    const all = await (await open({})).rest()
    const [first] = live
    const textOf = (events: typeof all) => events.map(({ data }) => (data as Reply | null)?.data.agentReply.text ?? '').join('')
    expect(textOf(live)).toBe('One two three.')
    for (const after of [null, live.at(-2)?.id]) {
      const resumed = await (await open({ after }, { 'last-event-id': first?.id ?? '' })).rest()
      expect(textOf(live.slice(0, 1)) + textOf(resumed)).toBe('One two three.')
      expect(resumed.slice(-2)).toEqual(all.slice(-2))
    }
  })

  it('is what a client gets that accepts anything', async () => {
    const { runId } = await say(platform.api(key), 'Hello.')
    const { headers, rest } = await openEventSource(
      platform.url,
      key,
      { query: agentReply, variables: { runId } },
      { accept: '*/*' },
    )
    expect(headers.get('content-type')).toContain('text/event-stream')
    expect((await rest()).at(-1)?.event).toBe('complete')
  })

  it('is a 406 for who accepts JSON alone', async () => {
    const { runId } = await say(platform.api(key), 'Hello.')
    const { status } = await openEventSource(
      platform.url,
      key,
      { query: agentReply, variables: { runId } },
      { accept: 'application/json' },
    )
    expect(status).toBe(406)
  })

  it('needs credentials', async () => {
    const { runId } = await say(platform.api(key), 'Hello.')
    const { status, rest } = await openEventSource(platform.url, null, { query: agentReply, variables: { runId } })
    expect(status).toBe(401)
    expect((await rest())[0]?.data).toMatchObject({ errors: [{ extensions: { code: 'UNAUTHENTICATED' } }] })
  })

  it('tells a malformed cursor and a run nobody has apart from a stream', async () => {
    const { runId } = await say(platform.api(key), 'Hello.')
    const first = async (variables: object) => {
      const source = await openEventSource(platform.url, key, { query: agentReply, variables: { runId, ...variables } })
      return (await source.rest())[0]
    }
    expect((await first({ after: 'soon' }))?.data).toMatchObject({ errors: [{ extensions: { code: 'BAD_USER_INPUT' } }] })
    expect((await first({ runId: 'nobody' }))?.data).toMatchObject({ errors: [{ extensions: { code: 'NOT_FOUND' } }] })
  })

  it('ends when its key is revoked, without saying that it is complete', { tags: ['rule-17'] }, async () => {
    const admin = platform.api(platform.acme.keys.admin)
    const { createApiKey: created } = await admin.data(createApiKeyMutation, { input: { name: 'doomed', role: 'MEMBER' } })
    if (created.__typename !== 'CreateApiKeyPayload') throw new Error(created.__typename)
    // Another's run: its own would end as well, and perhaps be heard to.
    const { runId } = await say(platform.api(key), 'A story, please.')
    const { next, rest } = await openEventSource(platform.url, created.secret, { query: agentReply, variables: { runId } })
    expect(await next()).toMatchObject({ event: 'next' })
    await admin.data(revokeApiKeyMutation, { input: { apiKeyId: created.apiKey.id } })
    expect(await rest()).toEqual([])
  })

  it('is refused above the number that a process carries, with the time to come back', {
    tags: ['edge-subscriptions'],
  }, async () => {
    const small = await startTestPlatform({ limits: { subscriptions: 1 } })
    small.upstream.otherwise(stallsAfter('Once'))
    const { member } = small.acme.keys
    const { runId } = await say(small.api(member), 'A story, please.')
    const open = () => openEventSource(small.url, member, { query: agentReply, variables: { runId } })
    const first = await open()
    await first.next()
    const second = await open()
    expect([second.status, second.headers.get('retry-after')]).toEqual([503, '5'])
    expect((await second.next())?.data).toMatchObject({
      errors: [{ extensions: { code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: 5 } }],
    })
    const onSocket = small.api(member).client.events(`subscription { agentReply(runId: "${runId}") { __typename } }`)
    await expect(onSocket.next()).rejects.toThrow('SERVICE_UNAVAILABLE')
    first.close()
    await expect.poll(async () => (await open()).status).toBe(200)
    await small.stop()
  })

  it('is refused above the number of its tenant, which holds up no other tenant', { tags: ['edge-subscriptions'] }, async () => {
    const small = await startTestPlatform({ limits: { subscriptionsPerTenant: 2 } })
    small.upstream.otherwise(stallsAfter('Once'))
    const follow = async (as: string) => {
      const { runId } = await say(small.api(as), 'A story, please.')
      return openEventSource(small.url, as, { query: agentReply, variables: { runId } })
    }
    const { acme, globex } = small
    // All at once: none may slip in while another is only about to begin. Another key of the tenant is no way around it.
    const { runId } = await say(small.api(acme.keys.member), 'A story, please.')
    const open = () => openEventSource(small.url, acme.keys.member, { query: agentReply, variables: { runId } })
    const crowd = await Promise.all(Array.from({ length: 8 }, open))
    expect(crowd.map(({ status }) => status).toSorted()).toEqual([200, 200, 503, 503, 503, 503, 503, 503])
    const refused = await follow(acme.keys.endUser)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5'])
    expect((await refused.next())?.data).toMatchObject({ errors: [{ extensions: { code: 'SERVICE_UNAVAILABLE' } }] })
    expect((await follow(globex.keys.member)).status).toBe(200)
    for (const { close } of crowd) close()
    await expect.poll(async () => (await follow(acme.keys.endUser)).status).toBe(200)
    await small.stop()
  })

  it('leaves nothing behind when its client leaves before it begins', async () => {
    const { story } = platform
    const asked = Promise.withResolvers<void>()
    const answer = Promise.withResolvers<void>()
    const server = createServer({
      async authenticate(credential) {
        asked.resolve()
        await answer.promise
        return story.authenticate(credential)
      },
      signals: story.ports.signals,
      accessVersions: (tenantIds) => story.catalog.tenants.accessVersions(tenantIds),
      logger: pino({ level: 'silent' }),
      limits: { subscriptions: 1 },
      development: true,
      isReady: async () => true,
    })
    const { url } = await server.listen(0, '127.0.0.1')
    const { runId } = await say(platform.api(key), 'A story, please.')
    const open = () => openEventSource(url, key, { query: agentReply, variables: { runId } })

    const { hostname, port } = new URL(url)
    const body = JSON.stringify({ query: `subscription { agentReply(runId: "${runId}") { __typename } }` })
    const headers = [
      'Host: here',
      `Authorization: Bearer ${key}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
    ]
    const early = connect(Number(port), hostname)
    early.write(`POST /graphql HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${body}`)
    await asked.promise
    early.resetAndDestroy()
    await once(early, 'close')
    await delay(50)
    answer.resolve()

    await expect
      .poll(async () => {
        const source = await open()
        source.close()
        return source.status
      })
      .toBe(200)
    await server.close(1_000)
  })

  it('answers a query as well', async () => {
    const { rest } = await openEventSource(platform.url, key, { query: '{ viewer { role } }' })
    expect(await rest()).toEqual([
      { event: 'next', id: null, data: { data: { viewer: { role: 'MEMBER' } } } },
      { event: 'complete', id: null, data: null },
    ])
  })
})
