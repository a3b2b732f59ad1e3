import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  conversationsByIds,
  createConversation,
  deleteConversation,
  findConversation,
  listConversations,
  renameConversation,
} from '../../src/domain/conversation.ts'
import { Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { type Story, startStory, type TenantStory, withoutSignals } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory
let otto: Scope

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
  otto = (await story.endUser(acme.admin, 'otto')).endUser
})
afterAll(() => story.close())

/** Ids that must all look alike to acme's people: another tenant's, nobody's, and no ids at all. */
async function notTheirs(): Promise<string[]> {
  return [(await createConversation(globex.admin, {})).id, newId(), 'nonsense', '', '\0']
}

async function failuresOf(calls: Promise<unknown>[]): Promise<Error[]> {
  return Promise.all(
    calls.map((call) =>
      call.then(
        () => expect.unreachable('It succeeded.'),
        (error) => error,
      ),
    ),
  )
}

function expectAllAlike(failures: Error[]): void {
  for (const failure of failures) {
    expect(failure).toBeInstanceOf(NotFound)
    expect(failure.message).toBe(failures[0]?.message)
  }
}

describe('createConversation', () => {
  test('begins one with the default agent, for nobody in particular', async () => {
    const conversation = await createConversation(acme.member, { title: 'Grüße 🦆' })
    expect(conversation).toMatchObject({ title: 'Grüße 🦆', userId: null, agentId: acme.tenant.defaultAgentId })
    expect(conversation.updatedAt).toEqual(conversation.createdAt)
    expect(await findConversation(acme.admin, conversation.id)).toEqual(conversation)
    expect((await createConversation(acme.member, {})).title).toBeNull()
  })

  test('for end users begins their own; for staff, whose they say', async () => {
    expect((await createConversation(acme.endUser, {})).userId).toBe('ursula')
    expect((await createConversation(acme.endUser, { userId: 'ursula' })).userId).toBe('ursula')
    await expect(createConversation(acme.endUser, { userId: 'otto' })).rejects.toThrow(Forbidden)
    const { id } = await createConversation(acme.member, { userId: 'otto' })
    expect((await findConversation(otto, id))?.userId).toBe('otto')
  })

  test('finds no agent of another tenant, nor one that was archived', async () => {
    const archived = newId()
    const { db, tenant } = acme.admin
    await db.agent.create({
      data: { id: archived, tenantId: tenant.id, slug: 'old', name: 'Old', activeVersion: 1, archivedAt: new Date() },
    })
    const agentIds = [globex.tenant.defaultAgentId, newId(), 'nonsense', archived]
    expectAllAlike(await failuresOf(agentIds.map((agentId) => createConversation(acme.admin, { agentId }))))
  })

  test.each([
    ['title', { title: '' }],
    ['title', { title: 'a\nb' }],
    ['title', { title: '\0' }],
    ['title', { title: 'a'.repeat(1001) }],
    ['userId', { userId: '' }],
    ['userId', { userId: '\0' }],
    ['userId', { userId: 'a'.repeat(201) }],
    ['idempotencyKey', { idempotencyKey: ' ' }],
  ])('refuses a bad %s', async (path, input) => {
    const [refusal] = await failuresOf([createConversation(acme.admin, input)])
    expect(refusal).toBeInstanceOf(ValidationProblem)
    expect((refusal as ValidationProblem).path).toEqual([path])
  })
})

describe('renameConversation', () => {
  test('gives another title', async () => {
    const { id, createdAt } = await createConversation(acme.endUser, { title: 'Before' })
    story.advance(1000)
    const renamed = await renameConversation(acme.endUser, { conversationId: id, title: 'After' })
    expect(renamed).toMatchObject({ id, title: 'After', createdAt })
    expect(renamed.updatedAt.getTime()).toBeGreaterThanOrEqual(createdAt.getTime() + 1000)
    expect(await findConversation(acme.admin, id)).toEqual(renamed)
    await expect(renameConversation(acme.endUser, { conversationId: id, title: ' ' })).rejects.toThrow(ValidationProblem)
  })

  test("finds nothing that is another tenant's or another user's", async () => {
    const staffs = await createConversation(acme.admin, { title: 'Staff' })
    const ottos = await createConversation(otto, { title: 'Otto' })
    const ids = [...(await notTheirs()), staffs.id, ottos.id]
    expectAllAlike(
      await failuresOf(ids.map((conversationId) => renameConversation(acme.endUser, { conversationId, title: 'x' }))),
    )
    expect(await conversationsByIds(acme.admin, [staffs.id, ottos.id])).toEqual(expect.arrayContaining([staffs, ottos]))
  })
})

describe('deleteConversation', () => {
  /** A conversation with a run in each of these states, and what the run at the start has cost. */
  async function withRuns(scope: Scope, statuses: ('QUEUED' | 'RUNNING' | 'COMPLETED')[]) {
    const conversation = await createConversation(scope, {})
    const ids = { tenantId: scope.tenant.id, conversationId: conversation.id, userId: conversation.userId }
    const runs = statuses.map((status) => ({
      ...ids,
      id: newId(),
      status,
      agentId: conversation.agentId,
      configVersion: 1,
      model: 'gpt-4o-mini',
    }))
    await scope.db.run.createMany({ data: runs })
    await scope.db.message.createMany({
      data: runs.map((run) => ({ ...ids, id: newId(), runId: run.id, role: 'USER' as const, content: 'Hi', tokensUsed: 1 })),
    })
    const [first] = runs
    await scope.db.usageRecord.create({
      data: {
        id: newId(),
        tenantId: ids.tenantId,
        conversationId: ids.conversationId,
        runId: first?.id ?? '',
        agentId: conversation.agentId,
        configVersion: 1,
        turn: 1,
        call: 1,
        attempt: 1,
        model: 'gpt-4o-mini',
        inputTokens: 10,
        cachedInputTokens: 0,
        outputTokens: 5,
        reasoningTokens: 0,
        estimated: false,
        costNanos: 4500n,
        currency: 'USD',
      },
    })
    return { conversationId: conversation.id, runIds: runs.map(({ id }) => id) }
  }

  test('takes messages and runs along, stops the unfinished ones, and leaves the ledger', async () => {
    const { admin, endUser } = await story.tenant()
    const { conversationId, runIds } = await withRuns(endUser, ['COMPLETED', 'QUEUED', 'RUNNING'])
    expect(await deleteConversation(endUser, { conversationId })).toEqual({ deletedConversationId: conversationId })
    expect(await findConversation(admin, conversationId)).toBeNull()
    expect(await admin.db.run.count()).toBe(0)
    expect(await admin.db.message.count()).toBe(0)
    expect(await admin.db.usageRecord.count({ where: { conversationId } })).toBe(1)
    const cancelled = story.signals.flatMap((signal) => (signal.type === 'CancelRun' ? [signal] : []))
    expect(new Set(cancelled)).toEqual(
      new Set(runIds.slice(1).map((runId) => ({ type: 'CancelRun', tenantId: admin.tenant.id, runId }))),
    )
  })

  test("finds nothing that is another tenant's or another user's, and stops nothing there", async () => {
    const before = story.signals.length
    const staffs = await withRuns(acme.admin, ['RUNNING'])
    const ottos = await withRuns(otto, ['RUNNING'])
    const foreign = await withRuns(globex.admin, ['RUNNING'])
    const ids = [...(await notTheirs()), staffs.conversationId, ottos.conversationId, foreign.conversationId]
    expectAllAlike(await failuresOf(ids.map((conversationId) => deleteConversation(acme.endUser, { conversationId }))))
    expect(story.signals).toHaveLength(before)
    expect(await acme.admin.db.run.count({ where: { cancelRequestedAt: null } })).toBe(2)
    expect(await globex.admin.db.run.count({ where: { cancelRequestedAt: null } })).toBe(1)
  })

  test('happens although no worker could be told', async () => {
    const { conversationId } = await withRuns(acme.admin, ['RUNNING'])
    await deleteConversation(withoutSignals(acme.admin), { conversationId })
    expect(await findConversation(acme.admin, conversationId)).toBeNull()
  })

  test('happens once: the second time there is nothing to delete', async () => {
    const { id: conversationId } = await createConversation(acme.admin, {})
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => deleteConversation(acme.admin, { conversationId })))
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expectAllAlike(results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : [])))
  })
})

describe('looking up', () => {
  test("finds nothing that is another tenant's or another user's", async () => {
    const own = await createConversation(acme.endUser, {})
    const ottos = await createConversation(otto, {})
    const ids = [...(await notTheirs()), ottos.id]
    for (const id of ids) expect(await findConversation(acme.endUser, id)).toBeNull()
    expect(await conversationsByIds(acme.endUser, [own.id, ...ids])).toEqual([own])
  })
})

describe('listConversations', () => {
  const idsOf = ({ edges }: Awaited<ReturnType<typeof listConversations>>) => edges.map(({ node }) => node.id)

  test('goes from new to old, by pages and by filter', async () => {
    const { admin, tenant } = await story.tenant()
    const ids: string[] = []
    for (const userId of ['a', 'b', 'a', null]) {
      story.advance(1000)
      ids.unshift((await createConversation(admin, { userId })).id)
    }
    expect(idsOf(await listConversations(admin, {}))).toEqual(ids)
    const { pageInfo } = await listConversations(admin, { first: 2 })
    expect(idsOf(await listConversations(admin, { first: 2, after: pageInfo.endCursor }))).toEqual(ids.slice(2))
    expect(idsOf(await listConversations(admin, {}, { userId: 'a' }))).toEqual([ids[1], ids[3]])
    expect(idsOf(await listConversations(admin, {}, { agentId: tenant.defaultAgentId }))).toEqual(ids)
    for (const agentId of [newId(), 'nonsense', globex.tenant.defaultAgentId]) {
      expect(idsOf(await listConversations(admin, {}, { agentId }))).toEqual([])
    }
    await expect(listConversations(admin, { first: -1 }, { agentId: 'nonsense' })).rejects.toThrow(ValidationProblem)
    await expect(listConversations(admin, {}, { userId: '\0' })).rejects.toThrow(ValidationProblem)
  })

  test('shows end users their own, and no hint of others', async () => {
    const { admin, endUser } = await story.tenant()
    const own = await createConversation(endUser, {})
    await createConversation(admin, { userId: 'otto' })
    await createConversation(admin, {})
    expect(idsOf(await listConversations(endUser, {}))).toEqual([own.id])
    expect(idsOf(await listConversations(endUser, {}, { userId: 'ursula' }))).toEqual([own.id])
    await expect(listConversations(endUser, {}, { userId: 'otto' })).rejects.toThrow(Forbidden)
    expect((await listConversations(endUser, { first: 1 })).pageInfo.hasNextPage).toBe(false)
  })
})
