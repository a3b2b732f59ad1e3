import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createConversation } from '../../src/domain/conversation.ts'
import { Conflict, NotFound } from '../../src/domain/errors.ts'
import { listMessages, messagesByRun, sendMessage } from '../../src/domain/message.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { superseded } from '../../src/domain/run-ending.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { adminQuery } from '../support/database-url.ts'
import { ask, follow, startWorker, until } from '../support/run-story.ts'
import { hangsAfter, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, withoutSignals } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

// No worker of a later test finds them.
afterEach(() =>
  adminQuery(story.database.adminUrl, `update runs set status = 'CANCELLED', finished_at = now() where finished_at is null`),
)

afterAll(() => story.close())

const interrupted = { status: 'INTERRUPTED', failureCode: superseded.code, finishedAt: expect.any(Date) }

const stored = async ({ db }: Scope) => [await db.message.count(), await db.run.count(), await db.idempotencyKey.count()]

const replyTo = async (scope: Scope, runId: string) => (await messagesByRun(scope, [runId])).get(runId)?.reply?.content

describe('while a conversation is busy', () => {
  it('a message waits its turn unless something else is said', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const { run } = await ask(member, 'a', id)
    for (const whenBusy of [undefined, null, 'ENQUEUE'] as const) {
      const sent = await sendMessage(member, { conversationId: id, content: 'b', whenBusy })
      expect(sent.run.status).toBe('QUEUED')
    }
    expect(await findRun(member, run.id)).toMatchObject({ status: 'QUEUED', cancelRequestedAt: null })
  })

  it.each(['QUEUED', 'RUNNING', 'WAITING_APPROVAL', 'PAUSED_BUDGET'] as const)(
    'with a run that is %s, one that is not to wait is refused, and nothing is stored',
    async (status) => {
      const { member } = await story.tenant()
      const { run } = await ask(member)
      await member.db.run.updateMany({ where: { id: run.id }, data: { status } })
      const before = await stored(member)
      const input = { conversationId: run.conversationId, content: 'b', whenBusy: 'REJECT' as const, idempotencyKey: 'k' }
      await expect(sendMessage(member, input)).rejects.toThrow(Conflict)
      expect(await stored(member)).toEqual(before)

      await member.db.run.updateMany({ where: { id: run.id }, data: { status: 'COMPLETED', finishedAt: new Date() } })
      const sent = await sendMessage(member, input)
      expect(sent.run).toMatchObject({ status: 'QUEUED' })
      // It is busy with what was sent under that key.
      expect(await sendMessage(member, input)).toMatchObject({ userMessage: sent.userMessage, run: sent.run })
    },
  )

  it('lets one of many through that are all to be refused', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const send = () => sendMessage(member, { conversationId: id, content: 'a', whenBusy: 'REJECT' })
    const answers = await Promise.allSettled([1, 2, 3, 4].map(send))
    expect(answers.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected', 'rejected', 'rejected'])
  })

  it.each(['by a signal', 'without any signal'])(
    'one that interrupts ends the run under way, %s, and is answered',
    async (how) => {
      const { member } = await story.tenant()
      const model = scriptedModel([hangsAfter(['Once upon']), says('At once.')])
      const deaf = { ...story.ports, signals: new MemorySignals({ onError: () => undefined }) }
      const isDeaf = how === 'without any signal'
      await using _ = await startWorker(story, isDeaf ? { model, ports: deaf } : { model, timing: { watch: 60_000 } })
      const { run } = await ask(member)
      const events = follow(member, run.id)
      await until(() => model.requests.length === 1)

      const input = { conversationId: run.conversationId, content: 'Stop!', whenBusy: 'INTERRUPT' as const, idempotencyKey: 'k' }
      const sent = await sendMessage(isDeaf ? withoutSignals(member) : member, input)
      expect((await follow(member, sent.run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
      const usage = { inputTokens: expect.any(Number), outputTokens: 2, estimated: true }
      expect((await events).at(-1)).toMatchObject({ type: 'RunInterrupted', text: 'Once upon', usage })
      expect(await findRun(member, run.id)).toMatchObject(interrupted)
      expect(await replyTo(member, run.id)).toBe('Once upon')
      expect(await member.db.usageRecord.findMany({ where: { runId: run.id } })).toMatchObject([usage])
      const said = model.requests[1]?.messages.slice(1).map(({ content }) => content)
      expect(said).toEqual(['Hello?', 'Once upon', 'Stop!'])

      expect((await sendMessage(member, input)).userMessage).toEqual(sent.userMessage)
      expect(await findRun(member, sent.run.id)).toMatchObject({ status: 'COMPLETED', failureCode: null })
    },
  )

  it('one that interrupts ends at once what waits before it, without a word, and nothing elsewhere', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const earlier = [await ask(member, 'a', id), await ask(member, 'b', id)]
    await member.db.run.updateMany({ where: { id: earlier[0]?.run.id }, data: { status: 'WAITING_APPROVAL' } })
    const elsewhere = await ask(member, 'c')
    const sent = await sendMessage(member, { conversationId: id, content: 'd', whenBusy: 'INTERRUPT' })
    for (const { run } of earlier) {
      expect(await findRun(member, run.id)).toMatchObject(interrupted)
      expect(await follow(member, run.id)).toMatchObject([{ type: 'RunInterrupted', text: '' }])
      expect(await replyTo(member, run.id)).toBeUndefined()
    }
    for (const { run } of [elsewhere, sent]) {
      expect(await findRun(member, run.id)).toMatchObject({ status: 'QUEUED', cancelRequestedAt: null, failureCode: null })
    }
    const { edges } = await listMessages(member, id, { first: 10 })
    expect(edges.map(({ node }) => node.content)).toEqual(['a', 'b', 'd'])
  })

  it('one that interrupts does not undo that a run was cancelled', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    await member.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', epoch: 1 } })
    await cancelRun(member, { runId: run.id })
    await sendMessage(member, { conversationId: run.conversationId, content: 'b', whenBusy: 'INTERRUPT' })
    await member.db.run.updateMany({ where: { id: run.id }, data: { status: 'QUEUED' } })
    await using _ = await startWorker(story, { model: scriptedModel([says('x')]) })
    await story.ports.runQueue.wake(member.tenant.id)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled' })
    expect(await findRun(member, run.id)).toMatchObject({ status: 'CANCELLED', failureCode: null })
  })

  it("an end user interrupts nobody else's", async () => {
    const { member, endUser } = await story.tenant()
    const { run } = await ask(member)
    const input = { conversationId: run.conversationId, content: 'b', whenBusy: 'INTERRUPT' as const }
    await expect(sendMessage(endUser, input)).rejects.toThrow(NotFound)
    expect(await findRun(member, run.id)).toMatchObject({ status: 'QUEUED', cancelRequestedAt: null })
  })
})
