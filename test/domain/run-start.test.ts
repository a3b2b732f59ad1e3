import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Uncommitted } from '../../src/data/tenant-scope.ts'
import type { QuotaReading } from '../../src/domain/admission.ts'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { advanceConversation } from '../../src/domain/conversation-clock.ts'
import { NotFound } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { ModelError, type ModelEvent } from '../../src/domain/ports.ts'
import { findRun } from '../../src/domain/run.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { countTokens } from '../../src/llm/token-count.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { atCommit, holdCommit } from '../support/at-commit.ts'
import { adminQuery } from '../support/database-url.ts'
import { ask, follow, impatient, shownAfter, startWorker, until } from '../support/run-story.ts'
import { hangsAfter, type ModelScript, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { selectRows } from '../support/tenant-rows.ts'

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

  it('may be followed at once by who asked, without a look at it, and by others as any run', async () => {
    const { member, admin, endUser } = await story.tenant()
    const { member: stranger } = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([says('Hello.')]) })
    const { run } = await ask(member)
    expect(run.status).toBe('RUNNING')
    const looks: unknown[] = []
    const watched = (scope: Scope): Scope => {
      const $queryShort = (...statement: Parameters<Scope['db']['$queryShort']>) => {
        looks.push(statement)
        return scope.db.$queryShort(...statement)
      }
      return {
        ...scope,
        db: new Proxy(scope.db, { get: (db, name) => (name === '$queryShort' ? $queryShort : Reflect.get(db, name)) }),
      }
    }
    for (const other of [stranger, endUser]) await expect(follow(watched(other), run.id)).rejects.toThrow(NotFound)
    expect(looks).toHaveLength(2)
    expect(shownAfter(await follow(watched(member), run.id))).toBe('Hello.')
    expect(looks).toHaveLength(2)
    expect(shownAfter(await follow(watched(admin), run.id))).toBe('Hello.')
    await delay(1_000)
    expect(shownAfter(await follow(watched(member), run.id))).toBe('Hello.')
    expect(looks).toHaveLength(4)

    // The first message makes the pseudonym.
    await follow(endUser, (await ask(endUser)).run.id)
    const { run: own } = await ask(endUser)
    expect(own.status).toBe('RUNNING')
    const { endUser: other } = await story.endUser(admin, 'another')
    await expect(follow(other, own.id)).rejects.toThrow(NotFound)
    expect(shownAfter(await follow(endUser, own.id))).toBe('Hello.')
  })

  it('is answered once it is committed, however long that takes', async () => {
    const { member } = await story.tenant()
    const letGo = await holdCommit(story, 'Slow')
    const model = scriptedModel([says('Hello.')])
    const begun: string[] = []
    const onCall: Partial<typeof model> = {
      async *stream(request, signal, options) {
        begun.push('prepared')
        options?.ready?.then(() => begun.push('ready'))
        yield* model.stream(request, signal, options)
      },
    }
    // Runs are looked for while that takes: a run that is not found has been deleted, but for those that are not there yet.
    await using _ = await startWorker(story, { model: { ...model, ...onCall }, timing: { watch: 20 } })
    const asked = ask(member, 'Slow')
    await until(() => begun.length === 1)
    await delay(200)
    expect(model.requests).toHaveLength(0)
    await letGo()
    const { run } = await asked
    expect(shownAfter(await follow(member, run.id))).toBe('Hello.')
    expect(begun).toEqual(['prepared', 'ready'])
    expect(await findRun(member, run.id)).toMatchObject({ status: 'COMPLETED', epoch: 1 })
  })

  it('is handed back uncharged when its worker has to stop before it is committed', async () => {
    const { member } = await story.tenant()
    const letGo = await holdCommit(story, 'Leaving')
    const model = scriptedModel([hangsAfter(), says('Hello.', usage(7, 1))])
    let isPrepared = false
    const stream: typeof model.stream = (...call) => {
      isPrepared = true
      return model.stream(...call)
    }
    await using leaving = await startWorker(story, { model: { ...model, stream } })
    const asked = ask(member, 'Leaving')
    await until(() => isPrepared)
    const left = leaving.worker.drain(0)
    await delay(100)
    await letGo()
    const { run } = await asked
    await left
    await using _ = await startWorker(story, { model })
    expect(shownAfter(await follow(member, run.id))).toBe('Hello.')
    const ledger = await member.db.usageRecord.findMany({ where: { runId: run.id } })
    expect(ledger).toMatchObject([{ attempt: 2, inputTokens: 7, estimated: false }])
  })

  it('is answered by the model that stands in, when the first fails before it is committed', async () => {
    const { member, admin } = await story.tenant()
    await updateAgentConfig(admin, { fallbackModels: ['gpt-4o'] })
    const letGo = await holdCommit(story, 'Failing')
    const model = scriptedModel([says('Hello.')])
    let isRefused = false
    const stream: typeof model.stream = (request, ...call) => {
      if (request.model === 'gpt-4o') return model.stream(request, ...call)
      isRefused = true
      throw new ModelError('MODEL_REFUSED', 'There is no key.', { retryable: false })
    }
    await using _ = await startWorker(story, { model: { ...model, stream } })
    const asked = ask(member, 'Failing')
    await until(() => isRefused)
    await delay(100)
    await letGo()
    const { run } = await asked
    expect(shownAfter(await follow(member, run.id))).toBe('Hello.')
    expect(await findRun(member, run.id)).toMatchObject({ status: 'COMPLETED', epoch: 1, model: 'gpt-4o' })
  })

  it('is not answered when it cannot be committed, and holds nothing then', async () => {
    const { member } = await story.tenant()
    await atCommit(story, 'Refused', "raise exception 'not today'")
    const model = scriptedModel([says('Hello.')])
    await using work = await startWorker(story, { model })
    const used = async () =>
      (await story.ports.admission.read(member.tenant.id, member.tenant.limitsVersion)) as { quota: QuotaReading }
    await follow(member, (await ask(member)).run.id)
    const before = await used()
    await expect(ask(member, 'Refused')).rejects.toThrow('not today')
    await until(() => work.worker.underWay === 0)
    expect((await used()).quota).toMatchObject({ reserved: 0, sessions: 0, spent: before.quota.spent })
    expect(model.requests).toHaveLength(1)
    expect(await member.db.run.count()).toBe(1)
    expect(await member.db.modelCallAttempt.count()).toBe(0)
    expect(await member.db.usageRecord.count()).toBe(1)
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
})

describe('the first model call of such a run', () => {
  /** How each call was noted when the model was asked: in which transaction, and its input. */
  type Sighting = { isOfMessage: boolean; inputTokens: number; expected: number }

  const attemptsOf = (runId: string) => selectRows(story.database, `select 1 from model_call_attempts where run_id = '${runId}'`)

  /** A model that answers each call after it has looked at what is noted of it. */
  function watchful(sightings: Sighting[], contextWindow?: number) {
    const script: ModelScript = async function* (request, signal) {
      const rows = (await selectRows(
        story.database,
        `select a.xmin = m.xmin as "isOfMessage", a.input_tokens as "inputTokens" from model_call_attempts a
         join messages m on m.tenant_id = a.tenant_id and m.run_id = a.run_id and m.role = 'USER'`,
      )) as Pick<Sighting, 'isOfMessage' | 'inputTokens'>[]
      const expected = request.messages.reduce((sum, { content }) => sum + countTokens(content) + 8, 0)
      sightings.push(...rows.map((row) => ({ ...row, expected })))
      yield* says('Certainly so.', usage(1, 1))(request, signal)
    }
    return scriptedModel([script], contextWindow === undefined ? {} : { contextWindow })
  }

  it('is noted in the statement that stores the message, with the tokens of what the model is told', async () => {
    const { member, admin, endUser } = await story.tenant()
    await updateAgentConfig(admin, { systemPrompt: 'You answer questions about the sea, and about nothing else.' })
    const sightings: Sighting[] = []
    await using _ = await startWorker(story, { model: watchful(sightings) })
    let conversationId: string | undefined
    for (const text of ['Hi', 'How deep is it?', 'And how cold?']) {
      const { run } = await ask(member, text, conversationId)
      conversationId = run.conversationId
      await follow(member, run.id)
    }
    // The first of an end user has no pseudonym yet, for which it waits.
    for (const text of ['Who are you?', 'And now?']) await follow(endUser, (await ask(endUser, text)).run.id)
    expect(sightings.map(({ isOfMessage }) => isOfMessage)).toEqual([true, true, true, false, true])
    // What was said counts with the tokens that its model reported.
    const replies = [0, 1, 2, 0, 0].map((count) => count * (countTokens('Certainly so.') - 1))
    expect(sightings.map(({ inputTokens }) => inputTokens)).toEqual(
      sightings.map(({ expected }, call) => expected - (replies[call] ?? 0)),
    )
    expect(await selectRows(story.database, 'select 1 from model_call_attempts')).toEqual([])
  })

  it('is noted anew when the conversation does not fit whole', async () => {
    const { member, admin } = await story.tenant()
    await updateAgentConfig(admin, { systemPrompt: '', maxOutputTokens: 10 })
    const sightings: Sighting[] = []
    await using _ = await startWorker(story, { model: watchful(sightings, 85) })
    const long = 'A sentence of some length, said again and again. '.repeat(4)
    const first = await ask(member, long)
    await follow(member, first.run.id)
    await follow(member, (await ask(member, 'Short.', first.run.conversationId)).run.id)
    expect(sightings).toMatchObject([{ isOfMessage: true }, { isOfMessage: false }])
    // A system prompt of nothing is not told, and counts as a message all the same.
    expect(sightings[1]?.inputTokens).toBe(countTokens('Short.') + 16)
    // Nor does what nothing has room for keep a message from being stored.
    const { conversationId } = first.run
    await adminQuery(
      story.database.adminUrl,
      `update messages set tokens_used = 2147483647 where conversation_id = '${conversationId}'`,
    )
    await follow(member, (await ask(member, 'Short.', conversationId)).run.id)
    expect(sightings[2]).toMatchObject({ isOfMessage: false, inputTokens: countTokens('Short.') + 16 })
  })

  it.each<[string, (tenant: TenantStory) => Promise<unknown>]>([
    ['has tools', ({ admin }) => updateAgentConfig(admin, { enabledTools: ['current_time'] })],
    [
      'may turn to a cheaper model',
      ({ admin }) => updateTenantSettings(admin, { downgradeModel: 'gpt-4o-mini', downgradeAt: 99 }),
    ],
    [
      'has a system prompt that nobody counted',
      ({ tenant }) =>
        adminQuery(
          story.database.adminUrl,
          `update agent_configs set system_prompt_tokens = null where tenant_id = '${tenant.id}'`,
        ),
    ],
  ])('is noted when it is known, for an agent that %s', async (_what, change) => {
    const tenant = await story.tenant()
    await change(tenant)
    const sightings: Sighting[] = []
    await using _ = await startWorker(story, { model: watchful(sightings) })
    await follow(tenant.member, (await ask(tenant.member)).run.id)
    expect(sightings).toMatchObject([{ isOfMessage: false }])
  })

  it('is noted when it has a slot, where its model is bounded', async () => {
    const { member } = await story.tenant()
    const sightings: Sighting[] = []
    const modelSlots = new MemoryModelSlots({ named: new Map([['gpt-4o-mini', 1]]), others: null })
    const ports = { ...story.ports, modelSlots }
    await using _ = await startWorker({ ...story, ports }, { model: watchful(sightings) })
    await follow(member, (await ask({ ...member, ports: { ...member.ports, modelSlots } })).run.id)
    expect(sightings).toMatchObject([{ isOfMessage: false }])
  })

  it('is noted again by a worker that others may take for dead', async () => {
    const { member } = await story.tenant()
    const sightings: Sighting[] = []
    let beats = 0
    const heartbeat = async (id: string) => {
      if (beats++ > 0) throw new Error('Unheard.')
      await story.catalog.heartbeat(id)
    }
    const catalog = new Proxy(story.catalog, {
      get: (target, name) =>
        name === 'heartbeat' ? heartbeat : (Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name)),
    })
    const timing = { heartbeat: 20, deadAfter: 400, sweep: 60_000 }
    const work = await startWorker(story, { model: watchful(sightings), catalog, timing })
    await delay(250)
    await follow(member, (await ask(member)).run.id)
    expect(sightings).toMatchObject([{ isOfMessage: false }])
    await expect(work[Symbol.asyncDispose]()).rejects.toThrow('failed in the background')
  })

  const lost = () => new Error('Connection terminated unexpectedly')
  it.each<[string, (answer: Uncommitted<unknown>) => Uncommitted<unknown>]>([
    [
      'that it has the run',
      () => {
        throw lost()
      },
    ],
    ['that it is committed', ({ rows, committed }) => ({ rows, committed: committed.then(() => Promise.reject(lost())) })],
  ])('is forgotten when its worker never hears %s', async (_case, lose) => {
    const { member } = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([says('Hello.', usage(7, 1))]), timing: impatient })
    const db = new Proxy(member.db, {
      get: (target, name) => {
        if (name !== '$queryBeforeCommit') return Reflect.get(target, name)
        return async (...statement: Parameters<typeof target.$queryBeforeCommit>) => {
          const answer = await target.$queryBeforeCommit(...statement)
          return lose({ ...answer, committed: answer.committed.then(() => undefined) })
        }
      },
    })
    const { id } = await createConversation(member, {})
    await expect(ask({ ...member, db }, 'Hi', id)).rejects.toThrow('Connection terminated')
    await until(async () => (await member.db.run.count({ where: { conversationId: id } })) === 1)
    const { id: runId } = await member.db.run.findFirstOrThrow({ where: { conversationId: id } })
    expect(shownAfter(await follow(member, runId))).toBe('Hello.')
    expect(await attemptsOf(runId)).toEqual([])
    const ledger = await member.db.usageRecord.findMany({ where: { runId } })
    expect(ledger).toMatchObject([{ attempt: 2, inputTokens: 7, estimated: false }])
  })

  it('is forgotten, and charged to nobody, when it does not come to it', async () => {
    const { member, admin } = await story.tenant()
    await updateAgentConfig(admin, { maxOutputTokens: 5_000 })
    await using _ = await startWorker(story, { model: scriptedModel([], { contextWindow: 5_001 }) })
    const { run } = await ask(member)
    expect(run.status).toBe('RUNNING')
    expect(await follow(member, run.id)).toMatchObject([{ type: 'RunFailed', failure: { code: 'CONTEXT_EXCEEDED' } }])
    expect(await selectRows(story.database, 'select 1 from model_call_attempts')).toEqual([])
    expect(await member.db.usageRecord.findMany({ where: { runId: run.id } })).toEqual([])
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
