import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { nodeQuery } from '../operations/node.ts'
import { say } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
})

afterAll(() => platform.stop())

describe('node', () => {
  it('finds everything that has an id of its own', async () => {
    const { tenant, admin, keys } = platform.acme
    const api = platform.api(keys.admin)
    const { conversationId, runId } = await say(api, 'Hello.')
    const [config, message] = await Promise.all([admin.db.agentConfig.findFirstOrThrow(), admin.db.message.findFirstOrThrow()])
    const ids = {
      Tenant: encodeId('Tenant', tenant.id),
      Agent: encodeId('Agent', tenant.defaultAgentId ?? ''),
      AgentConfig: encodeId('AgentConfig', config.id),
      Conversation: conversationId,
      Message: encodeId('Message', message.id),
      Run: runId,
    }
    for (const [__typename, id] of Object.entries(ids)) {
      expect((await api.data(nodeQuery, { id })).node).toEqual({ __typename, id })
    }
  })

  it('loads many of a type at once', async () => {
    const api = platform.api(platform.acme.keys.member)
    const { conversationId } = await say(api, 'Hello.')
    const aliases = Array.from(
      { length: 10 },
      (_, i) =>
        `n${i}: node(id: "${conversationId}") { ... on Conversation { id runs { edges { node { conversation { id } } } } } }`,
    )
    const data = await api.client.data<Record<string, { id: string }>>(`{ ${aliases.join(' ')} }`)
    expect(new Set(Object.values(data).map(({ id }) => id))).toEqual(new Set([conversationId]))
  })
})
