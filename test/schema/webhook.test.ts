import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import type { CreateWebhookInput } from '../generated/graphql.ts'
import { nodeQuery } from '../operations/node.ts'
import { createWebhookMutation, deleteWebhookMutation, webhooksQuery } from '../operations/webhook.ts'
import type { Api } from '../support/api.ts'
import { columnsWith } from '../support/columns.ts'
import { payload } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.admin)
})

afterAll(() => platform.stop())

async function create(input: CreateWebhookInput, as = api) {
  return (await as.data(createWebhookMutation, { input })).createWebhook
}

/** An admin of a tenant that has no webhook yet. */
async function someone(): Promise<Api> {
  return platform.api((await platform.story.tenant()).keys.admin)
}

describe('a webhook', () => {
  it('is there from when it is created until it is deleted', async () => {
    const url = 'https://hooks.example.com:8443/bulkhead?a=b'
    const { webhook, secret } = payload(await create({ url, description: 'To the pager' }), 'CreateWebhookPayload')
    expect(webhook).toEqual({
      id: expect.any(String),
      url,
      description: 'To the pager',
      events: ['NOTIFICATION'],
      createdAt: expect.any(String),
    })
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    expect((await api.data(webhooksQuery)).webhooks).toEqual([webhook])
    expect((await api.data(nodeQuery, { id: webhook.id })).node).toEqual({ __typename: 'Webhook', id: webhook.id })

    const remove = async () => (await api.data(deleteWebhookMutation, { input: { webhookId: webhook.id } })).deleteWebhook
    expect(payload(await remove(), 'DeleteWebhookPayload').webhook).toEqual({ id: webhook.id, url })
    expect((await api.data(webhooksQuery)).webhooks).toEqual([])
    expect((await api.data(nodeQuery, { id: webhook.id })).node).toBeNull()
    expect(await remove()).toMatchObject({ __typename: 'NotFound' })
  })

  it('is created once however often the call is repeated, and its secret is shown once', async () => {
    const input = { url: 'https://hooks.example.com/', idempotencyKey: newId() }
    const first = payload(await create(input), 'CreateWebhookPayload')
    expect(payload(await create(input), 'CreateWebhookPayload')).toEqual({ ...first, secret: null })
    expect(await create({ ...input, url: 'https://hooks.example.com/other' })).toMatchObject({ __typename: 'Conflict' })
  })

  it('is told of what it names, which is the same in any order', async () => {
    const input = { url: 'https://hooks.example.com/', idempotencyKey: newId() }
    const first = payload(await create({ ...input, events: ['USAGE', 'NOTIFICATION'] }), 'CreateWebhookPayload')
    expect(first.webhook.events).toEqual(['NOTIFICATION', 'USAGE'])
    expect((await api.data(webhooksQuery)).webhooks).toContainEqual(first.webhook)
    const second = payload(await create({ ...input, events: ['NOTIFICATION', 'USAGE'] }), 'CreateWebhookPayload')
    expect(second.webhook.events).toEqual(['NOTIFICATION', 'USAGE'])
    expect(await create({ ...input, events: ['USAGE'] })).toMatchObject({ __typename: 'Conflict' })
  })

  it('has a secret that is stored only encrypted, and that no log line has', { tags: ['rule-15'] }, async () => {
    const { secret } = payload(await create({ url: 'https://hooks.example.com/' }, await someone()), 'CreateWebhookPayload')
    const bare = secret?.slice('whsec_'.length) ?? ''
    expect(await columnsWith(platform.story.database.adminUrl, bare)).toEqual([])
    expect(JSON.stringify(platform.log())).not.toContain(bare)
  })

  it.each<[CreateWebhookInput, string]>([
    [{ url: 'http://hooks.example.com/' }, 'url'],
    [{ url: 'https://user:password@hooks.example.com/' }, 'url'],
    [{ url: 'https://127.0.0.1/' }, 'url'],
    [{ url: 'https://[::ffff:a9fe:a9fe]/' }, 'url'],
    [{ url: 'https://hooks.example.com:22/' }, 'url'],
    [{ url: 'nonsense' }, 'url'],
    [{ url: '' }, 'url'],
    [{ url: 'https://hooks.example.com/\n' }, 'url'],
    [{ url: `https://hooks.example.com/${'a'.repeat(2_000)}` }, 'url'],
    [{ url: 'https://hooks.example.com/', description: '' }, 'description'],
    [{ url: 'https://hooks.example.com/', description: 'a'.repeat(201) }, 'description'],
    [{ url: 'https://hooks.example.com/', events: [] }, 'events'],
    [{ url: 'https://hooks.example.com/', events: ['USAGE', 'USAGE'] }, 'events'],
    [{ url: 'https://hooks.example.com/', idempotencyKey: '' }, 'idempotencyKey'],
  ])('is refused for %o', async (input, path) => {
    expect(await create(input)).toMatchObject({ __typename: 'ValidationProblem', path: [path] })
  })

  it('is one of ten at most, also when all are created at once', async () => {
    const admin = await someone()
    const made = await Promise.all(Array.from({ length: 14 }, (_, n) => create({ url: `https://hooks.example.com/${n}` }, admin)))
    expect(made.filter(({ __typename }) => __typename === 'CreateWebhookPayload')).toHaveLength(10)
    const refused = made.filter(({ __typename }) => __typename === 'Conflict')
    expect(refused).toHaveLength(4)
    expect(refused[0]).toMatchObject({ message: 'There are 10 webhooks already. Delete one first.' })
    expect((await admin.data(webhooksQuery)).webhooks).toHaveLength(10)
  })

  it('is for admins, also as a node', async () => {
    const { webhook } = payload(await create({ url: 'https://hooks.example.com/' }), 'CreateWebhookPayload')
    for (const key of [platform.acme.keys.member, platform.acme.keys.endUser]) {
      const other = platform.api(key)
      expect(await create({ url: 'https://hooks.example.com/' }, other)).toMatchObject({ __typename: 'Forbidden' })
      const kept = await other.data(deleteWebhookMutation, { input: { webhookId: webhook.id } })
      expect(kept.deleteWebhook).toMatchObject({ __typename: 'Forbidden' })
      for (const asked of [await other.ask(webhooksQuery), await other.ask(nodeQuery, { id: webhook.id })])
        expect(asked.errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
    }
  })
})
