import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createConversation, findConversation } from '../../src/domain/conversation.ts'
import { Conflict, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import type { TenantId } from '../../src/domain/ids.ts'
import { listMessages, messagesByIds, messagesByRun, sendMessage } from '../../src/domain/message.ts'
import type { RunQueue } from '../../src/domain/ports.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { limitedTenant } from '../support/limits.ts'
import { ask } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
const woken: TenantId[] = []
let isQueueAway = false

const runQueue: RunQueue = {
  async wake(tenantId) {
    if (isQueueAway) throw new Error('The queue is away.')
    woken.push(tenantId)
  },
  reserve: () => null,
  consume: () => async () => undefined,
}

beforeAll(async () => {
  story = await startStory({ ports: { runQueue } })
  acme = await story.tenant()
})

afterAll(() => story.close())

const problemOf = (promise: Promise<unknown>) =>
  promise.then(
    () => null,
    (error: unknown) => error,
  )

/** All of the tenant's messages and runs. */
const counts = async ({ db }: Scope) => [await db.message.count(), await db.run.count()]

describe('sendMessage', () => {
  it('stores the message and queues the run that answers it, then wakes the workers', async () => {
    const conversation = await createConversation(acme.member, {})
    const { userMessage, run } = await sendMessage(acme.member, { conversationId: conversation.id, content: ' Hi\n\tthere 👋 ' })
    expect(userMessage).toMatchObject({ content: ' Hi\n\tthere 👋 ', role: 'USER', runId: run.id, tokensUsed: 7, userId: null })
    expect(run).toMatchObject({
      status: 'QUEUED',
      epoch: 0,
      model: 'gpt-4o-mini',
      configVersion: 1,
      agentId: conversation.agentId,
    })
    expect(run).toEqual(await acme.member.db.run.findFirst({ where: { id: run.id } }))
    expect(userMessage).toEqual(await acme.member.db.message.findFirst({ where: { id: userMessage.id } }))
    expect(woken.at(-1)).toBe(acme.tenant.id)
    const touched = await findConversation(acme.member, conversation.id)
    expect(touched?.updatedAt).toEqual(userMessage.createdAt)
    expect(userMessage.createdAt.getTime()).toBeGreaterThan(conversation.updatedAt.getTime())
  })

  it('gives what belongs to an end user to that user, whoever writes', async () => {
    const { id } = await createConversation(acme.endUser, {})
    const own = await ask(acme.endUser, 'Me.', id)
    const staff = await ask(acme.member, 'Us.', id)
    expect([own, staff].map(({ run, userMessage }) => [run.userId, userMessage.userId])).toEqual([
      ['ursula', 'ursula'],
      ['ursula', 'ursula'],
    ])
  })

  it('orders what is said in the same millisecond of one conversation', async () => {
    const { id, createdAt } = await createConversation(acme.member, {})
    const member = { ...acme.member, ports: { ...acme.member.ports, now: () => createdAt.getTime() } }
    const sent = await Promise.all(Array.from({ length: 10 }, (_, index) => ask(member, `${index}`, id)))
    const times = sent.map(({ userMessage }) => userMessage.createdAt.getTime())
    expect(new Set(times).size).toBe(10)
    expect(sent.map(({ run }) => run.createdAt.getTime())).toEqual(times)
  })

  it('is not lost when the wake-up is', async () => {
    isQueueAway = true
    const { run } = await ask(acme.member)
    isQueueAway = false
    expect(run.status).toBe('QUEUED')
  })

  it.each([
    ['nothing', ''],
    ['white space', ' \n\t'],
    ['a NUL', 'a\0b'],
    ['another control character', 'a\u001bb'],
    ['half a surrogate pair', 'a\ud83d'],
    ['a megabyte', 'x'.repeat(1_048_576)],
    ['too many bytes in few characters', '語'.repeat(33_334)],
  ])('refuses %s, and stores nothing', async (_what, content) => {
    const { id: conversationId } = await createConversation(acme.member, {})
    const before = await counts(acme.member)
    const problem = await problemOf(sendMessage(acme.member, { conversationId, content }))
    expect(problem).toBeInstanceOf(ValidationProblem)
    expect(problem).toMatchObject({ path: ['content'] })
    expect(await counts(acme.member)).toEqual(before)
  })

  it('takes 100,000 bytes', async () => {
    const { member } = await limitedTenant(story, { TOKENS_PER_MESSAGE: 100_000 })
    const { userMessage } = await ask(member, 'word '.repeat(20_000))
    expect(userMessage.tokensUsed).toBeGreaterThan(19_000)
  })

  it('answers alike for unknown, malformed, foreign and deleted conversations', async () => {
    const globex = await story.tenant()
    const foreign = await createConversation(globex.admin, {})
    const staffs = await createConversation(acme.member, {})
    const problems = await Promise.all([
      problemOf(sendMessage(acme.member, { conversationId: randomUUID(), content: 'Hi' })),
      problemOf(sendMessage(acme.member, { conversationId: 'x', content: 'Hi' })),
      problemOf(sendMessage(acme.member, { conversationId: foreign.id, content: 'Hi' })),
      problemOf(sendMessage(acme.endUser, { conversationId: staffs.id, content: 'Hi' })),
    ])
    for (const problem of problems) expect(problem).toEqual(new NotFound('conversation'))
    expect(await counts(globex.admin)).toEqual([0, 0])
  })

  it('has its effect once for each idempotency key', async () => {
    const { id: conversationId } = await createConversation(acme.member, {})
    const input = { conversationId, content: 'Once.', idempotencyKey: 'k1' }
    const send = async () => {
      const { userMessage, run } = await sendMessage(acme.member, input)
      return { userMessage, run }
    }
    const [first, ...others] = await Promise.all([1, 2, 3].map(send))
    for (const other of [...others, await send()]) expect(other).toEqual(first)
    expect(await acme.member.db.run.count({ where: { conversationId } })).toBe(1)
    expect(await problemOf(sendMessage(acme.member, { ...input, content: 'Twice.' }))).toBeInstanceOf(Conflict)
  })
})

describe('reading messages', () => {
  it('pages through a conversation, oldest first', async () => {
    const { id } = await createConversation(acme.member, {})
    for (const content of ['a', 'b', 'c']) await ask(acme.member, content, id)
    const page = await listMessages(acme.member, id, { first: 2 })
    expect(page.edges.map(({ node }) => node.content)).toEqual(['a', 'b'])
    const rest = await listMessages(acme.member, id, { after: page.pageInfo.endCursor })
    expect(rest.edges.map(({ node }) => node.content)).toEqual(['c'])
    expect((await listMessages(acme.member, 'x', {})).edges).toEqual([])
  })

  it('shows end users their own and no others', async () => {
    const mine = await ask(acme.endUser)
    const theirs = await ask(acme.member)
    const ids = [mine.userMessage.id, theirs.userMessage.id, 'x']
    expect((await messagesByIds(acme.endUser, ids)).map(({ id }) => id)).toEqual([mine.userMessage.id])
    const byRun = await messagesByRun(acme.endUser, [mine.run.id, theirs.run.id, 'x'])
    expect([...byRun]).toEqual([[mine.run.id, { userMessage: mine.userMessage, reply: null }]])
    expect((await listMessages(acme.endUser, theirs.run.conversationId, {})).edges).toEqual([])
  })
})
