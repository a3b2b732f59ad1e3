import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import {
  conversationQuery,
  conversationsQuery,
  createConversationMutation,
  deleteConversationMutation,
  renameConversationMutation,
} from '../operations/conversation.ts'
import type { Api } from '../support/api.ts'
import { begin, payload } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.member)
})

afterAll(() => platform.stop())

describe('a conversation', () => {
  it('is created, renamed and deleted', async () => {
    const created = await api.data(createConversationMutation, { input: { title: 'First' } })
    const { conversation } = payload(created.createConversation, 'CreateConversationPayload')
    expect(conversation).toEqual({ id: expect.any(String), title: 'First', userId: null })
    const { id } = conversation

    const renamed = await api.data(renameConversationMutation, { input: { conversationId: id, title: 'Second' } })
    expect(payload(renamed.renameConversation, 'RenameConversationPayload').conversation).toEqual({ id, title: 'Second' })
    expect((await api.data(conversationQuery, { id })).conversation).toMatchObject({
      title: 'Second',
      messages: { edges: [] },
      runs: { edges: [] },
    })

    const deleted = await api.data(deleteConversationMutation, { input: { conversationId: id } })
    expect(payload(deleted.deleteConversation, 'DeleteConversationPayload').deletedConversationId).toBe(id)
    expect((await api.data(conversationQuery, { id })).conversation).toBeNull()
    const again = await api.data(deleteConversationMutation, { input: { conversationId: id } })
    expect(again.deleteConversation.__typename).toBe('NotFound')
  })

  it('is created once for one idempotency key', async () => {
    const create = (title: string) => api.data(createConversationMutation, { input: { title, idempotencyKey: 'once' } })
    const [first, second] = await Promise.all([create('Same'), create('Same')])
    expect(first.createConversation).toEqual(second.createConversation)
    expect((await create('Other')).createConversation).toMatchObject({ __typename: 'Conflict', code: 'CONFLICT' })
  })

  it.each([
    ['an empty title', ''],
    ['control characters', 'a\u0000b'],
    ['half a character', '\ud800'],
    ['a megabyte', 'x'.repeat(1_000_000)],
  ])('refuses %s and stays as it was', async (_what, title) => {
    const id = await begin(api, 'Unchanged')
    const { renameConversation } = await api.data(renameConversationMutation, { input: { conversationId: id, title } })
    expect(renameConversation).toMatchObject({ __typename: 'ValidationProblem', code: 'VALIDATION' })
    expect((await api.data(conversationQuery, { id })).conversation?.title).toBe('Unchanged')
  })
})

describe('conversations', () => {
  const titles = ['1', '2', '3', '4', '5']
  let pages: Api
  let agentId: string

  beforeAll(async () => {
    pages = platform.api(platform.globex.keys.admin)
    agentId = encodeId('Agent', platform.globex.tenant.defaultAgentId ?? '')
    for (const title of titles) await begin(pages, title)
  })

  type Page = Parameters<typeof pages.data<unknown, { first?: number; last?: number; after?: string; before?: string }>>[1]

  async function page(variables: Page) {
    const { conversations } = await pages.data(conversationsQuery, variables as never)
    return { ...conversations, titles: conversations.edges.map(({ node }) => node.title) }
  }

  it('come newest first', async () => {
    const { titles, pageInfo } = await page({})
    expect(titles).toEqual(['5', '4', '3', '2', '1'])
    expect(pageInfo).toMatchObject({ hasNextPage: false, hasPreviousPage: false })
  })

  it('are paged through forwards and backwards', async () => {
    const first = await page({ first: 2 })
    const second = await page({ first: 2, after: first.pageInfo.endCursor ?? '' })
    const third = await page({ first: 2, after: second.pageInfo.endCursor ?? '' })
    expect([first.titles, second.titles, third.titles]).toEqual([['5', '4'], ['3', '2'], ['1']])
    expect([first, second, third].map(({ pageInfo }) => pageInfo.hasNextPage)).toEqual([true, true, false])
    const back = await page({ last: 2, before: third.pageInfo.startCursor ?? '' })
    expect(back.titles).toEqual(['3', '2'])
    expect(back.edges.map(({ cursor }) => cursor)).toEqual(second.edges.map(({ cursor }) => cursor))
    expect((await page({ last: 2, before: back.pageInfo.startCursor ?? '' })).pageInfo.hasPreviousPage).toBe(false)
  })

  it('are filtered by agent', async () => {
    const { conversations } = await pages.data(conversationsQuery, { filter: { agentId }, first: 1 } as never)
    expect(conversations.edges).toHaveLength(1)
  })

  it.each([{ first: -1 }, { first: 101 }, { last: -1 }, { first: 1, last: 1 }, { after: 'nonsense' }, { before: '' }])(
    'refuse %j',
    async (variables) => {
      const { errors } = await pages.ask(conversationsQuery, variables as never)
      expect(errors?.[0]?.extensions).toEqual({ code: 'BAD_USER_INPUT' })
    },
  )
})
