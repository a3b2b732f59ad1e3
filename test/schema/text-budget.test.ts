import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Api } from '../support/api.ts'
import { begin, say } from '../support/conversing.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { setLimits } from '../support/limits.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api
let client: GraphQLClient

beforeAll(async () => {
  platform = await startTestPlatform()
  await setLimits(platform.story, platform.acme.tenant.id, { TOKENS_PER_MESSAGE: 100_000 })
  api = platform.api(platform.acme.keys.member)
  client = graphqlClient(platform.url, platform.acme.keys.member)
})

afterAll(async () => {
  await client.close()
  await platform.stop()
})

it('bounds the text of one operation, however it is asked for, and leaves room for the largest page', async () => {
  const id = await begin(api)
  const long = 'words '.repeat(16_000)
  for (let count = 0; count < 6; count++) await say(api, long, id)
  const pages = (aliases: number) => {
    const names = Array.from({ length: aliases }, (_, index) => `p${index}: messages(first: 6) { edges { node { content } } }`)
    return client.request<{ conversation: Record<string, { edges: unknown[] }> } | null>(
      `query ($id: ID!) { conversation(id: $id) { ${names.join('\n')} } }`,
      { id },
    )
  }
  const allowed = await pages(2)
  expect(allowed.errors).toBeUndefined()
  expect(allowed.data?.conversation['p1']?.edges).toHaveLength(6)

  const refused = await pages(60)
  expect(refused.data?.conversation ?? null).toBeNull()
  expect(refused.errors?.[0]).toMatchObject({
    message: 'The answer would be too long. Ask for fewer messages at a time.',
    extensions: { code: 'BAD_USER_INPUT' },
  })
})
