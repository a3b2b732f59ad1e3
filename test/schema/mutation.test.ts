import { afterAll, beforeAll, expect, it } from 'vitest'
import { createApiKeyMutation } from '../operations/api-key.ts'
import { createConversationMutation } from '../operations/conversation.ts'
import { viewerQuery } from '../operations/viewer.ts'
import { adminQuery } from '../support/database-url.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
  const { database } = platform.story
  await adminQuery(database.adminUrl, `update tenants set status = 'MOVING' where id = '${platform.acme.tenant.id}'`)
})

afterAll(() => platform.stop())

const refusal = {
  message: 'The tenant is being moved to another database. Try again shortly.',
  extensions: { code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: 5 },
}

it('a tenant that is being moved is read, and told when to write again', async () => {
  const api = platform.api(platform.acme.keys.admin)
  expect((await api.data(viewerQuery)).viewer.tenant?.status).toBe('MOVING')
  const answers = [
    await api.ask(createConversationMutation, { input: {} }),
    await api.ask(createApiKeyMutation, { input: { name: 'x', role: 'MEMBER' } }),
  ]
  for (const { status, headers, data, errors } of answers) {
    expect(errors).toMatchObject([refusal])
    expect([status, headers.get('retry-after'), data]).toEqual([503, '5', null])
  }
})

it('a role that does not suffice is refused for that', async () => {
  const { data } = await platform
    .api(platform.acme.keys.member)
    .ask(createApiKeyMutation, { input: { name: 'x', role: 'MEMBER' } })
  expect(data?.createApiKey.__typename).toBe('Forbidden')
})

it('others write as ever', async () => {
  const api = platform.api(platform.globex.keys.admin)
  const { createConversation } = await api.data(createConversationMutation, { input: {} })
  expect(createConversation.__typename).toBe('CreateConversationPayload')
})
