import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CreateApiKeyInput } from '../generated/graphql.ts'
import { apiKeysQuery, createApiKeyMutation, revokeApiKeyMutation } from '../operations/api-key.ts'
import { viewerQuery } from '../operations/viewer.ts'
import type { Api } from '../support/api.ts'
import { payload } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.admin)
})

afterAll(() => platform.stop())

async function create(input: CreateApiKeyInput) {
  return (await api.data(createApiKeyMutation, { input })).createApiKey
}

describe('an API key', () => {
  it('works from the moment it is made until it is revoked', async () => {
    const { secret, apiKey } = payload(await create({ name: 'Ci', role: 'MEMBER' }), 'CreateApiKeyPayload')
    expect(apiKey).toEqual({ id: expect.any(String), name: 'Ci', role: 'MEMBER', userId: null })
    const holder = platform.api(secret ?? '')
    expect((await holder.data(viewerQuery)).viewer).toMatchObject({ role: 'MEMBER', actorName: 'Ci' })

    const revoked = await api.data(revokeApiKeyMutation, { input: { apiKeyId: apiKey.id } })
    expect(payload(revoked.revokeApiKey, 'RevokeApiKeyPayload').apiKey.revokedAt).not.toBeNull()
    expect((await holder.ask(viewerQuery)).status).toBe(401)
    expect(await api.data(revokeApiKeyMutation, { input: { apiKeyId: apiKey.id } })).toEqual(revoked)
  })

  it('of an end user is bound to that user', async () => {
    const { secret } = payload(await create({ name: 'App', role: 'END_USER', userId: 'vera' }), 'CreateApiKeyPayload')
    expect((await platform.api(secret ?? '').data(viewerQuery)).viewer).toMatchObject({ role: 'END_USER', userId: 'vera' })
  })

  it('stops working when it expires', async () => {
    const expiresAt = new Date(Date.now() + 60_000).toISOString()
    const { secret } = payload(await create({ name: 'Soon gone', role: 'MEMBER', expiresAt }), 'CreateApiKeyPayload')
    const holder = platform.api(secret ?? '')
    expect((await holder.ask(viewerQuery)).status).toBe(200)
    platform.story.advance(61_000)
    expect((await holder.ask(viewerQuery)).status).toBe(401)
  })

  it('is shown once, also when the call is repeated', async () => {
    const input: CreateApiKeyInput = { name: 'Once', role: 'MEMBER', idempotencyKey: 'k1' }
    const first = payload(await create(input), 'CreateApiKeyPayload')
    const second = payload(await create(input), 'CreateApiKeyPayload')
    expect(first.secret).toMatch(/^bh_/)
    expect(second).toEqual({ ...first, secret: null })
  })

  it.each<[string, CreateApiKeyInput, string]>([
    ['an end user without an id', { name: 'x', role: 'END_USER' }, 'userId'],
    ['a member with a user', { name: 'x', role: 'MEMBER', userId: 'u' }, 'userId'],
    ['an operator', { name: 'x', role: 'OPERATOR' }, 'role'],
    ['the past', { name: 'x', role: 'MEMBER', expiresAt: '2020-01-01T00:00:00Z' }, 'expiresAt'],
    ['no name', { name: '', role: 'MEMBER' }, 'name'],
  ])('is refused for %s', async (_what, input, path) => {
    expect(await create(input)).toMatchObject({ __typename: 'ValidationProblem', path: [path] })
  })

  it('is listed without its secret', async () => {
    const { apiKeys } = await api.data(apiKeysQuery)
    expect(apiKeys.map(({ name }) => name)).toEqual(expect.arrayContaining(['Ada', 'Max', 'Key of ursula']))
    expect(JSON.stringify(apiKeys)).not.toMatch(/bh_|secret|hash/i)
  })
})
