import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createConversation } from '../../src/domain/conversation.ts'
import { NotFound } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { messagesByRun } from '../../src/domain/message.ts'
import { cancelRun, findRun, listRuns, runsByIds, usageByRun } from '../../src/domain/run.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { pseudonymOf } from '../../src/domain/user-pseudonym.ts'
import { ask, follow } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
})

afterAll(() => story.close())

const problemOf = (promise: Promise<unknown>) =>
  promise.then(
    () => null,
    (error: unknown) => error,
  )

/** Enters a model call of the run into the ledger. */
async function enter(scope: Scope, runId: string, turn: number, inputTokens: number, estimated = false) {
  const run = await findRun(scope, runId)
  if (!run) throw new Error('There is no such run.')
  const { tenantId, conversationId, userId, agentId, configVersion, model } = run
  await scope.db.usageRecord.create({
    data: {
      ...{ id: newId(), tenantId, conversationId, runId, agentId, configVersion, model, turn, call: 0, attempt: 1 },
      userPseudonym: await pseudonymOf(scope.db, tenantId, userId),
      ...{ inputTokens, cachedInputTokens: 1, outputTokens: 2, reasoningTokens: 1, estimated, costNanos: 10n, currency: 'USD' },
    },
  })
}

describe('reading runs', () => {
  it('pages, newest first, by status and conversation', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const sent = [await ask(member, 'a', id), await ask(member, 'b', id), await ask(member)]
    const [a = '', b = '', c = ''] = sent.map(({ run }) => run.id)
    await cancelRun(member, { runId: a })
    const idsOf = async (...args: Parameters<typeof listRuns> extends [Scope, ...infer Rest] ? Rest : never) =>
      (await listRuns(member, ...args)).edges.map(({ node }) => node.id)
    expect(await idsOf({})).toEqual([c, b, a])
    expect(await idsOf({ first: 1 }, { conversationId: id })).toEqual([b])
    expect(await idsOf({}, { status: 'CANCELLED' })).toEqual([a])
    expect(await idsOf({}, { status: 'QUEUED', conversationId: id })).toEqual([b])
    expect(await idsOf({}, { conversationId: 'x' })).toEqual([])
  })

  it('shows nobody what is not theirs', async () => {
    const globex = await story.tenant()
    const foreign = await ask(globex.member)
    const staffs = await ask(acme.member)
    const own = await ask(acme.endUser)
    await enter(acme.member, staffs.run.id, 0, 10)
    expect(await findRun(acme.endUser, own.run.id)).toEqual(own.run)
    for (const [scope, id] of [
      [acme.member, foreign.run.id],
      [acme.endUser, staffs.run.id],
      [acme.member, randomUUID()],
      [acme.member, 'x'],
    ] as const) {
      expect(await findRun(scope, id)).toBeNull()
      expect(await runsByIds(scope, [id])).toEqual([])
      expect(await problemOf(cancelRun(scope, { runId: id }))).toEqual(new NotFound('run'))
      expect((await usageByRun(scope, [id])).get(id)).toMatchObject({ inputTokens: 0, costNanos: 0n })
    }
    expect((await listRuns(acme.endUser, {})).edges.map(({ node }) => node.id)).toEqual([own.run.id])
    expect(await findRun(globex.member, foreign.run.id)).toMatchObject({ status: 'QUEUED', cancelRequestedAt: null })
  })

  it('sums what each run used', async () => {
    const [first, second] = [await ask(acme.member), await ask(acme.endUser)]
    await enter(acme.member, first.run.id, 0, 10)
    await enter(acme.member, first.run.id, 1, 20, true)
    await enter(acme.member, second.run.id, 0, 5)
    const sums = await usageByRun(acme.member, [first.run.id, second.run.id])
    expect(sums.get(first.run.id)).toEqual({
      ...{ inputTokens: 30, cachedInputTokens: 2, outputTokens: 4, reasoningTokens: 2 },
      ...{ estimated: true, costNanos: 20n, currency: 'USD' },
    })
    expect(sums.get(second.run.id)).toMatchObject({ inputTokens: 5, estimated: false, costNanos: 10n })
    expect((await usageByRun(acme.endUser, [second.run.id])).get(second.run.id)).toMatchObject({ inputTokens: 5 })
  })
})

describe('cancelRun', () => {
  it('ends a queued run at once, and tells its followers', async () => {
    const { run } = await ask(acme.endUser)
    const following = follow(acme.endUser, run.id)
    await new Promise((resolve) => setTimeout(resolve, 30))
    const cancelled = await cancelRun(acme.endUser, { runId: run.id })
    expect(cancelled.run).toMatchObject({ status: 'CANCELLED', startedAt: null, workerId: null })
    expect(cancelled.run.finishedAt).not.toBeNull()
    expect(await following).toMatchObject([{ type: 'RunCancelled', text: '' }])
    expect(await follow(acme.endUser, run.id)).toMatchObject([{ type: 'RunCancelled', text: '' }])
    expect((await messagesByRun(acme.endUser, [run.id])).get(run.id)?.reply).toBeNull()
    expect(await cancelRun(acme.endUser, { runId: run.id })).toEqual(cancelled)
  })

  it('keeps what a queued run had said when its worker died', async () => {
    const { run } = await ask(acme.member)
    const turn = { text: 'So far. ', toolCalls: [], results: [], outputTokens: 3, promptTokens: 3 }
    await acme.member.db.run.updateMany({ where: { id: run.id }, data: { epoch: 1, turns: [turn] } })
    await cancelRun(acme.member, { runId: run.id })
    expect((await messagesByRun(acme.member, [run.id])).get(run.id)?.reply).toMatchObject({ content: 'So far. ', tokensUsed: 3 })
    expect(await follow(acme.member, run.id)).toMatchObject([
      { type: 'StreamReset', text: 'So far. ', cursor: '2000-1' },
      { type: 'RunCancelled', text: 'So far. ' },
    ])
  })

  it('asks the worker of a run that is under way, and asks again when it is repeated', async () => {
    const { run } = await ask(acme.member)
    await acme.member.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', epoch: 1, workerId: newId() } })
    const first = await cancelRun(acme.member, { runId: run.id })
    expect(first.run).toMatchObject({ status: 'RUNNING', finishedAt: null })
    expect(first.run.cancelRequestedAt).not.toBeNull()
    expect(await cancelRun(acme.member, { runId: run.id })).toEqual(first)
    const asked = story.signals.filter((signal) => signal.type === 'CancelRun' && signal.runId === run.id)
    expect(asked).toHaveLength(2)
  })

  it('has one effect when it is asked for many times at once', async () => {
    const { run } = await ask(acme.member)
    const answers = await Promise.all(Array.from({ length: 8 }, () => cancelRun(acme.member, { runId: run.id })))
    expect(new Set(answers.map((answer) => answer.run.status))).toEqual(new Set(['CANCELLED']))
    expect(await follow(acme.member, run.id)).toHaveLength(1)
  })
})
