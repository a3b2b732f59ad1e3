import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createConversation } from '../../src/domain/conversation.ts'
import { advanceConversation } from '../../src/domain/conversation-clock.ts'
import { newId } from '../../src/domain/ids.ts'
import type { ModelEvent } from '../../src/domain/ports.ts'
import { findRun } from '../../src/domain/run.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { adminQuery } from '../support/database-url.ts'
import { ask, follow, shownAfter, startWorker, until } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

const statusOf = async (scope: Scope, runId: string) => (await findRun(scope, runId))?.status

/** A queue that counts its wake-ups, and a scope and ports that use it. */
function counting(scope: Scope) {
  const queue = new MemoryRunQueue({ onError: () => undefined })
  const counted = { wakeUps: 0 }
  const runQueue = Object.assign(Object.create(queue), {
    wake: (...args: Parameters<typeof queue.wake>) => {
      counted.wakeUps += 1
      return queue.wake(...args)
    },
    consume: queue.consume.bind(queue),
    reserve: queue.reserve.bind(queue),
  })
  const ports = { ...story.ports, runQueue }
  return { ports, counted, scope: { ...scope, ports: { ...scope.ports, runQueue } } }
}

function gatedModel() {
  const gate = Promise.withResolvers<void>()
  const script = async function* (): AsyncGenerator<ModelEvent> {
    await gate.promise
    yield* says('First.')({} as never, AbortSignal.timeout(0))
  }
  return { model: scriptedModel([script, says('Second.'), says('Third.')]), open: () => gate.resolve() }
}

/** Adds a queued run to the conversation that `tx` holds, and wakes nobody. */
async function queueRun(scope: Scope, conversationId: string, meanwhile: () => Promise<void>): Promise<string> {
  const id = newId()
  const { tenant, actor, db } = scope
  await db.$transaction(async (tx) => {
    const at = (await advanceConversation(tx, tenant.id, conversationId, Date.now())) as Date
    const { agentId } = await tx.conversation.findFirstOrThrow({ where: { id: conversationId } })
    const of = { tenantId: tenant.id, conversationId, createdAt: at }
    const pinned = { agentId, configVersion: 1, model: 'gpt-4o-mini', apiKeyId: actor.id, queuedAt: at }
    await tx.run.create({ data: { ...of, ...pinned, id } })
    await tx.message.create({ data: { ...of, id: newId(), runId: id, role: 'USER', content: 'Between', tokensUsed: 1 } })
    await meanwhile()
  })
  return id
}

describe('a message at a process whose worker has room', () => {
  it('has its run begun in the statement that stores it, without a wake-up', async () => {
    const { member } = await story.tenant()
    const { ports, counted, scope } = counting(member)
    const model = scriptedModel([says('Hello.'), says('Again.')])
    await using work = await startWorker({ ...story, ports }, { model })
    const { run } = await ask(scope, 'Hi')
    expect(run).toMatchObject({ status: 'RUNNING', epoch: 1, workerId: work.worker.id })
    expect(run.startedAt).not.toBeNull()
    expect(shownAfter(await follow(scope, run.id))).toBe('Hello.')
    expect(counted.wakeUps).toBe(0)
    expect(await findRun(scope, run.id)).toMatchObject({ status: 'COMPLETED', epoch: 1 })

    const next = await ask(scope, 'And now?', run.conversationId)
    expect(next.run.status).toBe('RUNNING')
    expect(shownAfter(await follow(scope, next.run.id))).toBe('Again.')
    // It is told what a run is told that was claimed for a wake-up.
    expect(model.requests[1]?.messages.slice(1).map(({ content }) => content)).toEqual(['Hi', 'Hello.', 'And now?'])
    const ledger = await scope.db.usageRecord.findMany({ where: { runId: { in: [run.id, next.run.id] } } })
    expect(ledger.map(({ priceId }) => priceId)).toEqual([expect.any(String), expect.any(String)])
  })

  it('belongs to an end user whose pseudonym is made when it is first needed', async () => {
    const { endUser: user } = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([says('One.'), says('Two.')]) })
    for (const text of ['One.', 'Two.']) {
      const { run } = await ask(user)
      expect(run.status).toBe('RUNNING')
      expect(shownAfter(await follow(user, run.id))).toBe(text)
    }
    const pseudonyms = await user.db.userPseudonym.findMany()
    expect(pseudonyms).toHaveLength(1)
  })

  it('waits while its conversation is busy, and while all places are taken', async () => {
    const { member } = await story.tenant()
    const gate = gatedModel()
    await using _ = await startWorker(story, { model: gate.model, concurrency: 1 })
    const first = await ask(member)
    expect(first.run.status).toBe('RUNNING')
    const [second, third] = [await ask(member, 'b', first.run.conversationId), await ask(member)]
    expect([second.run.status, third.run.status]).toEqual(['QUEUED', 'QUEUED'])
    gate.open()
    for (const { run } of [first, second, third]) await follow(member, run.id)
    expect(await statusOf(member, second.run.id)).toBe('COMPLETED')
  })

  it('waits behind a message that was stored while it waited for the conversation', async () => {
    const { member } = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([says('Between.'), says('Late.')]) })
    const { id } = await createConversation(member, {})
    let asking: ReturnType<typeof ask> | undefined
    const between = await queueRun(member, id, async () => {
      asking = ask(member, 'late', id)
      await delay(100)
    })
    const late = await asking
    expect(late?.run.status).toBe('QUEUED')
    await story.ports.runQueue.wake(member.tenant.id)
    expect(shownAfter(await follow(member, between))).toBe('Between.')
    expect(shownAfter(await follow(member, late?.run.id ?? ''))).toBe('Late.')
  })

  it('is not begun for a key that was just revoked, nor for a tenant that was just suspended', async () => {
    const { member, tenant } = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([]) })
    await member.db.apiKey.updateMany({ where: { id: member.actor.id }, data: { revokedAt: new Date() } })
    const { id } = await createConversation(member, {})
    const queue = new MemoryRunQueue({ onError: () => undefined })
    const runQueue = {
      reserve: () => story.ports.runQueue.reserve(),
      wake: queue.wake.bind(queue),
      consume: queue.consume.bind(queue),
    }
    const deaf = { ...member, ports: { ...member.ports, runQueue } }
    expect((await ask(deaf, 'a', id)).run.status).toBe('QUEUED')
    await member.db.apiKey.updateMany({ where: { id: member.actor.id }, data: { revokedAt: null } })
    await adminQuery(story.database.adminUrl, `UPDATE tenants SET status = 'SUSPENDED' WHERE id = '${tenant.id}'`)
    expect((await ask(deaf)).run.status).toBe('QUEUED')
  })
})

it('the end of a run wakes whoever was queued while it waited for the conversation', async () => {
  const { member } = await story.tenant()
  const gate = gatedModel()
  await using _ = await startWorker(story, { model: gate.model, timing: { overdueAfter: 60_000 } })
  const { run } = await ask(member)
  await until(() => gate.model.requests.length === 1)
  const between = await queueRun(member, run.conversationId, async () => {
    gate.open()
    await delay(200)
  })
  expect(shownAfter(await follow(member, between))).toBe('Second.')
})
