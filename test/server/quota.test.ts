import { setTimeout as delay } from 'node:timers/promises'
import { ApolloClient, HttpLink, InMemoryCache } from '@apollo/client'
import { Client, cacheExchange, fetchExchange } from '@urql/core'
import { print } from 'graphql'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { limitedMessageMutation } from '../operations/quota.ts'
import type { Api } from '../support/api.ts'
import { begin } from '../support/conversing.ts'
import { limitedTenant } from '../support/limits.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { asAdmin } from '../support/tenant-rows.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
})

afterAll(() => platform.stop())

type Limited = { api: Api; key: string; tenantId: string; conversationId: string }

async function limited(limits: Parameters<typeof limitedTenant>[1]): Promise<Limited> {
  const { tenant, keys } = await limitedTenant(platform.story, limits)
  const api = platform.api(keys.member)
  return { api, key: keys.member, tenantId: tenant.id, conversationId: await begin(api) }
}

const say = ({ api, conversationId }: Limited, content = 'Hi.') =>
  api.ask(limitedMessageMutation, { input: { conversationId, content } })

/** A message for each content, in one request. */
function sayAll({ key, conversationId }: Limited, contents: string[], accept = 'application/json') {
  const fields = contents.map(
    (content, index) =>
      `m${index}: sendMessage(input: { conversationId: "${conversationId}", content: "${content}" }) { __typename ... on Problem { code } }`,
  )
  return fetch(`${platform.url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept, authorization: `Bearer ${key}` },
    body: JSON.stringify({ query: `mutation { ${fields.join('\n')} }` }),
  })
}

const long = 'word '.repeat(100)
const day = { 'ratelimit-policy': expect.stringContaining('"day";q=2;w=86400') }

function limitHeaders(headers: Headers): Record<string, string | null> {
  return Object.fromEntries(['ratelimit-policy', 'ratelimit', 'retry-after'].map((name) => [name, headers.get(name)]))
}

describe('over HTTP', () => {
  it('an answer says what remains', async () => {
    const { status, headers, data } = await say(await limited({ MESSAGES_PER_DAY: 2 }))
    expect([status, data?.sendMessage.__typename]).toEqual([200, 'SendMessagePayload'])
    expect(limitHeaders(headers)).toEqual({
      'ratelimit-policy': expect.stringMatching(
        /^"minute";q=60;w=60, "day";q=2;w=86400, "sessions";q=50;qu="concurrent-requests", "month";q=10000000;w=\d+;qu="tokens"$/,
      ),
      ratelimit: expect.stringMatching(/^"minute";r=59;t=\d+, "day";r=1;t=\d+, "sessions";r=49, "month";r=99\d+;t=\d+$/),
      'retry-after': null,
    })
  })

  it('a refused message is 429, says when to come back, and is data all the same', async () => {
    const tenant = await limited({ MESSAGES_PER_MINUTE: 1 })
    await say(tenant)
    const { status, headers, data, errors, ...rest } = await say(tenant)
    expect([status, errors, rest]).toEqual([429, undefined, {}])
    const seconds = Number(headers.get('retry-after'))
    expect(seconds).toBeGreaterThan(55)
    expect(seconds).toBeLessThanOrEqual(65)
    expect(headers.get('ratelimit')).toContain(`"minute";r=0;t=${seconds}`)
    expect(data?.sendMessage).toEqual({
      ...{ __typename: 'QuotaExceeded', code: 'QUOTA_EXCEEDED', message: expect.stringContaining('in a minute: 1.') },
      ...{ limit: 'MESSAGES_PER_MINUTE', scope: 'TENANT', max: 1, remaining: 0, retryAfterSeconds: seconds },
      resetAt: expect.stringMatching(/:[0-5][05]\.000Z$/),
    })
  })

  it('tokens that are used up are 429 until the month ends', async () => {
    const { status, headers, data } = await say(await limited({ MONTHLY_TOKENS: 600 }), long.repeat(2))
    expect(status).toBe(429)
    expect(data?.sendMessage).toMatchObject({ __typename: 'BudgetExhausted', code: 'BUDGET_EXHAUSTED', limit: 'MONTHLY_TOKENS' })
    expect(headers.get('retry-after')).toBeNull()
  })

  it('a message that is too long is 413, and no time helps', async () => {
    const { status, headers, data } = await say(await limited({ TOKENS_PER_MESSAGE: 10, MESSAGES_PER_DAY: 2 }), long)
    expect(status).toBe(413)
    expect(limitHeaders(headers)).toMatchObject({ ...day, 'retry-after': null })
    expect(data?.sendMessage).toMatchObject({
      ...{ __typename: 'QuotaExceeded', limit: 'TOKENS_PER_MESSAGE', scope: 'MESSAGE', max: 10 },
      ...{ retryAfterSeconds: null, resetAt: null },
    })
  })

  it('a request of which something was done is 200', async () => {
    const response = await sayAll(await limited({ MESSAGES_PER_DAY: 2 }), ['One.', 'Two.', 'Three.'])
    expect(response.status).toBe(200)
    expect(limitHeaders(response.headers)).toMatchObject({ ...day, 'retry-after': null })
    expect(await response.json()).toEqual({
      data: {
        m0: { __typename: 'SendMessagePayload' },
        m1: { __typename: 'SendMessagePayload' },
        m2: { __typename: 'QuotaExceeded', code: 'QUOTA_EXCEEDED' },
      },
    })
  })

  it.each(['application/json', 'application/graphql-response+json', 'text/event-stream'])(
    'a request of which all was refused has the longest time, as %s',
    async (accept) => {
      const tenant = await limited({ MESSAGES_PER_DAY: 1, TOKENS_PER_MESSAGE: 10 })
      await say(tenant)
      const response = await sayAll(tenant, ['One.', long, 'Two.'], accept)
      expect(response.status).toBe(429)
      const untilMidnight = 86_400 - ((Date.now() / 1_000) % 86_400)
      const seconds = Number(response.headers.get('retry-after'))
      expect(Math.abs(seconds - untilMidnight) % 86_399).toBeLessThan(30)
      expect(await response.text()).not.toContain('extensions')
    },
  )

  it('what is refused for another reason says nothing of limits', async () => {
    const tenant = await limited({})
    const { status, headers } = await say({ ...tenant, conversationId: 'nonsense' })
    expect(status).toBe(200)
    expect(Object.values(limitHeaders(headers))).toEqual([null, null, null])
  })

  it('whoever waits as long as it said succeeds', { timeout: 90_000 }, async () => {
    const tenant = await limited({ MESSAGES_PER_MINUTE: 1 })
    await say(tenant)
    // As if it had been sent 52 seconds ago, by an instance whose counters are lost.
    await asAdmin(platform.story.database, (admin) =>
      admin.query(`update runs set created_at = created_at - interval '52 s' where tenant_id = $1`, [tenant.tenantId]),
    )
    await platform.story.ports.admission.erase(tenant.tenantId as never)
    const { status, headers } = await say(tenant)
    expect(status).toBe(429)
    const seconds = Number(headers.get('retry-after'))
    expect(seconds).toBeLessThanOrEqual(13)
    await delay(seconds * 1_000)
    expect((await say(tenant)).status).toBe(200)
  })
})

describe('over a socket', () => {
  it('a refusal has the same data, and nothing of HTTP', async () => {
    const tenant = await limited({ MESSAGES_PER_DAY: 1 })
    await say(tenant)
    const { conversationId, api } = tenant
    const variables = { input: { conversationId, content: 'Hi.' } }
    const [result] = await Array.fromAsync(api.client.socket.iterate({ query: print(limitedMessageMutation), variables }))
    expect(Object.keys(result ?? {})).toEqual(['data'])
    expect(result?.data?.['sendMessage']).toMatchObject({
      ...{ __typename: 'QuotaExceeded', limit: 'MESSAGES_PER_DAY', max: 1, remaining: 0 },
      ...{ retryAfterSeconds: expect.any(Number), resetAt: expect.stringMatching(/T00:00:00.000Z$/) },
    })
  })
})

describe('a refused message is data, and no network error,', () => {
  const sent = { __typename: 'QuotaExceeded', limit: 'MESSAGES_PER_DAY' }

  it('to urql', async () => {
    const tenant = await limited({ MESSAGES_PER_DAY: 1 })
    await say(tenant)
    const client = new Client({
      ...{ url: `${platform.url}/graphql`, exchanges: [cacheExchange, fetchExchange], preferGetMethod: false },
      fetchOptions: { headers: { authorization: `Bearer ${tenant.key}` } },
    })
    const variables = { input: { conversationId: tenant.conversationId, content: 'Hi.' } }
    const { data, error } = await client.mutation(print(limitedMessageMutation), variables).toPromise()
    expect(error).toBeUndefined()
    expect(data.sendMessage).toMatchObject(sent)
  })

  it('to Apollo Client', async () => {
    const tenant = await limited({ MESSAGES_PER_DAY: 1 })
    await say(tenant)
    const client = new ApolloClient({
      link: new HttpLink({ uri: `${platform.url}/graphql`, headers: { authorization: `Bearer ${tenant.key}` } }),
      cache: new InMemoryCache(),
    })
    const variables = { input: { conversationId: tenant.conversationId, content: 'Hi.' } }
    const { data, error } = await client.mutate({ mutation: limitedMessageMutation as never, variables, errorPolicy: 'all' })
    expect(error).toBeUndefined()
    expect((data as { sendMessage: object }).sendMessage).toMatchObject(sent)
    client.stop()
  })
})
