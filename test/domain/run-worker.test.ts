import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { DatabaseAway } from '../../src/data/outage.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { createConversation, deleteConversation } from '../../src/domain/conversation.ts'
import { newId } from '../../src/domain/ids.ts'
import { messagesByRun } from '../../src/domain/message.ts'
import type { Model, ModelEvent } from '../../src/domain/ports.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { adminQuery } from '../support/database-url.ts'
import { ask, follow, impatient, shownAfter, startWorker, until } from '../support/run-story.ts'
import { callsTools, hangsAfter, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

const statusOf = async (scope: Scope, runId: string) => (await findRun(scope, runId))?.status

/** A model that says a word, then waits until it is told to go on. */
function gatedModel(text = 'done') {
  const gate = Promise.withResolvers<void>()
  const script = async function* (): AsyncGenerator<ModelEvent> {
    yield { type: 'text', text: 'word ' }
    await gate.promise
    yield* says(text)({} as never, AbortSignal.timeout(0))
  }
  return { model: scriptedModel([script]), open: () => gate.resolve() }
}

describe('a worker', () => {
  it('takes the runs of a conversation one at a time, in the order they were asked for', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const sent = [await ask(member, 'a', id), await ask(member, 'b', id), await ask(member, 'c', id)]
    const model = scriptedModel([says('1'), says('2'), says('3')])
    await using _ = await startWorker(story, { model })
    for (const { run } of sent) await follow(member, run.id)
    expect(
      model.requests.map(({ messages }) =>
        messages
          .slice(1)
          .map(({ content }) => content)
          .join(' '),
      ),
    ).toEqual(['a', 'a 1 b', 'a 1 b 2 c'])
  })

  it('does not skip a run of the conversation that another is just claiming', async () => {
    const { member, tenant } = await story.tenant()
    const { id } = await createConversation(member, {})
    const [first] = [await ask(member, 'a', id), await ask(member, 'b', id)]
    await member.db.$transaction(async (tx) => {
      await tx.$queryRaw`select from runs where id = ${first.run.id}::uuid for update`
      expect(await claimRun(member.db, tenant.id, newId())).toBeNull()
    })
    const claimed = await claimRun(member.db, tenant.id, newId())
    expect(claimed?.run).toEqual(
      await member.db.run.findFirst({ where: { id: first.run.id, epoch: 1 }, include: { config: true } }),
    )
    expect(claimed?.othersWait).toBe(false)
    expect(await claimRun(member.db, tenant.id, newId())).toBeNull()
    await deleteConversation(member, { conversationId: id })
  })

  it('says whether others of the tenant wait that it could be asked for meanwhile', async () => {
    const { member, tenant } = await story.tenant()
    const { id } = await createConversation(member, {})
    await ask(member, 'a', id)
    await ask(member, 'b', id)
    const alone = await ask(member, 'c')
    const [first, second] = [await claimRun(member.db, tenant.id, newId()), await claimRun(member.db, tenant.id, newId())]
    expect([first?.othersWait, second?.othersWait]).toEqual([true, true])
    expect(await claimRun(member.db, tenant.id, newId())).toBeNull()
    for (const conversationId of [id, alone.run.conversationId]) await deleteConversation(member, { conversationId })
  })

  it('tells the model of nothing that was said after the question', async () => {
    const { member } = await story.tenant()
    const { id } = await createConversation(member, {})
    const first = await ask(member, 'a', id)
    const second = await ask(member, 'b', id)
    await cancelRun(member, { runId: second.run.id })
    const model = scriptedModel([says('1')])
    await using _ = await startWorker(story, { model })
    await follow(member, first.run.id)
    expect(model.requests[0]?.messages.slice(1)).toEqual([{ role: 'user', content: 'a' }])
  })

  it('works for other tenants and conversations while one waits for its model', { tags: ['rule-14'] }, async () => {
    const slow = await story.tenant()
    const quick = await story.tenant()
    const gate = gatedModel()
    const model: Model = {
      ...gate.model,
      stream: (request, signal) =>
        request.messages.at(-1)?.content === 'slow' ? gate.model.stream(request, signal) : says('quick')(request, signal),
    }
    await using _ = await startWorker(story, { model, concurrency: 4, grace: 1_000 })
    const { id } = await createConversation(slow.member, {})
    const waiting = [await ask(slow.member, 'slow', id), await ask(slow.member, 'after', id)]
    for (const { member } of [quick, slow]) {
      const { run } = await ask(member, 'quick')
      expect(shownAfter(await follow(member, run.id))).toBe('quick')
    }
    expect(await statusOf(slow.member, waiting[1]?.run.id ?? '')).toBe('QUEUED')
    gate.open()
    for (const { run } of waiting) expect((await follow(slow.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
  })

  it('answers every run once, however many workers there are', async () => {
    const tenants = [await story.tenant(), await story.tenant()]
    const model = scriptedModel([says(['One', ' answer.'])], { contextWindow: 100_000 })
    await using _ = await startWorker(story, { model })
    await using __ = await startWorker(story, { model })
    const sent = tenants.flatMap(({ member }) =>
      Array.from({ length: 6 }, async () => {
        const { id } = await createConversation(member, {})
        return Promise.all([1, 2, 3].map(() => ask(member, 'Hello?', id)))
      }),
    )
    const runs = (await Promise.all(sent)).flat().map(({ run }) => run)
    for (const { member, tenant } of tenants) {
      for (const { id } of runs.filter(({ tenantId }) => tenantId === tenant.id)) {
        expect(shownAfter(await follow(member, id))).toBe('One answer.')
      }
      expect(await member.db.run.count({ where: { status: 'COMPLETED', epoch: 1 } })).toBe(18)
      expect(await member.db.message.count({ where: { role: 'ASSISTANT' } })).toBe(18)
      expect(await member.db.usageRecord.count()).toBe(18)
    }
    expect(model.requests).toHaveLength(36)
    const lengths = Map.groupBy(model.requests, ({ messages }) => messages.length)
    expect([...lengths].map(([length, requests]) => [length, requests.length]).sort()).toEqual([
      [2, 12],
      [4, 12],
      [6, 12],
    ])
  })

  it('uses the configuration that is active when it takes the run', async () => {
    const { member, admin } = await story.tenant()
    const { run } = await ask(member)
    await updateAgentConfig(admin, { model: 'gpt-4o', systemPrompt: 'New.' })
    const model = scriptedModel([says('x')])
    await using _ = await startWorker(story, { model })
    await follow(member, run.id)
    expect(model.requests[0]).toMatchObject({ model: 'gpt-4o', messages: [{ content: 'New.' }, {}] })
    expect(await findRun(member, run.id)).toMatchObject({ model: 'gpt-4o', configVersion: 2 })
    expect(await member.db.usageRecord.findMany({ where: { runId: run.id } })).toMatchObject([
      { model: 'gpt-4o', configVersion: 2 },
    ])
  })

  it('hands a run back when it has to stop, and another makes the answer', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const following = follow(member, run.id)
    const hanging = scriptedModel([hangsAfter(['Half ', 'an '])])
    const first = await startWorker(story, { model: hanging })
    await until(() => hanging.requests.length === 1)
    await first[Symbol.asyncDispose]()
    expect(await findRun(member, run.id)).toMatchObject({ status: 'QUEUED', workerId: null, epoch: 1 })

    await using _ = await startWorker(story, { model: scriptedModel([says('Whole.')]) })
    const events = await following
    expect(events.filter(({ type }) => type !== 'TextDelta')).toMatchObject([
      { type: 'StreamReset', text: '' },
      { type: 'RunCompleted' },
    ])
    expect(shownAfter(events)).toBe('Whole.')
    const records = await member.db.usageRecord.findMany({ where: { runId: run.id }, orderBy: { attempt: 'asc' } })
    expect(records).toMatchObject([
      { attempt: 1, estimated: true },
      { attempt: 2, estimated: false },
    ])
  })

  it('lets a run come to its end when there is time', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const gate = gatedModel()
    const work = await startWorker(story, { model: gate.model, grace: 5_000 })
    await until(() => gate.model.requests.length === 1)
    const drained = work[Symbol.asyncDispose]()
    const { run: next } = await ask(member)
    gate.open()
    await drained
    expect(await statusOf(member, run.id)).toBe('COMPLETED')
    expect(await statusOf(member, next.id)).toBe('QUEUED')
    await cancelRun(member, { runId: next.id })
  })
})

describe('when something is lost', () => {
  it('a dead worker: another goes on after the last finished turn, and the dead one can write no more', async () => {
    const { member } = await story.tenant({ agent: { enabledTools: ['current_time'] } })
    const { run } = await ask(member)
    const following = follow(member, run.id)
    // Its heart stops after the first beat; else it goes on as if nothing were.
    class StoppedHeart extends Catalog {
      #beats = 0
      override async heartbeat(workerId: string) {
        this.#beats += 1
        if (this.#beats === 1) await super.heartbeat(workerId)
      }
    }
    await using opened = new AsyncDisposableStack()
    const catalog = new StoppedHeart({ connectionString: story.database.platformUrl })
    opened.defer(() => catalog.close())
    const gate = gatedModel('from the dead')
    const dying = scriptedModel([callsTools([{ name: 'current_time', arguments: '{}' }], 'First. '), gate.model.stream])
    const timing = { ...impatient, watch: 60_000, sweep: 60_000 }
    const ports = { ...story.ports, runQueue: new MemoryRunQueue({ onError: () => undefined }) }
    await ports.runQueue.wake(member.tenant.id)
    const dead = opened.use(await startWorker(story, { model: dying, catalog, ports, timing, grace: 5_000 }))
    await until(() => dying.requests.length === 2)

    const living = scriptedModel([says('Second.')])
    await using _ = await startWorker(story, { model: living, timing: impatient })
    const events = await following
    expect(events.filter(({ type }) => type === 'StreamReset')).toMatchObject([{ text: 'First. ' }])
    expect(shownAfter(events)).toBe('First. Second.')
    expect(living.requests).toHaveLength(1)
    expect(living.requests[0]?.messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'tool'])

    const before = await findRun(member, run.id)
    expect(before).toMatchObject({ status: 'COMPLETED', epoch: 2 })
    gate.open()
    await dead[Symbol.asyncDispose]()
    expect(await findRun(member, run.id)).toEqual(before)
    expect((await messagesByRun(member, [run.id])).get(run.id)?.reply?.content).toBe('First. Second.')
    // What the dead one's call used was used all the same.
    const records = await member.db.usageRecord.findMany({ where: { runId: run.id } })
    expect(records.map(({ turn, attempt }) => `${turn}.${attempt}`).sort()).toEqual(['0.1', '1.1', '1.2'])
    expect(shownAfter(await follow(member, run.id))).toBe('First. Second.')
  })

  it('the database, while a run ends: the run is made again once it is back', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const gate = gatedModel()
    const model = scriptedModel([gate.model.stream, says('Whole.')])
    const ports = { ...story.ports, runQueue: new MemoryRunQueue({ onError: () => undefined }) }
    await using work = await startWorker(story, { model, ports, timing: impatient })
    await until(() => model.requests.length === 1)
    await adminQuery(story.database.adminUrl, 'REVOKE UPDATE (status) ON runs FROM bulkhead_app')
    gate.open()
    await until(() => work.errors.length > 1)
    await adminQuery(story.database.adminUrl, 'GRANT UPDATE (status) ON runs TO bulkhead_app')
    expect(shownAfter(await follow(member, run.id))).toBe('Whole.')
    expect(await findRun(member, run.id)).toMatchObject({ status: 'COMPLETED', epoch: 2 })
    expect(work.errors.splice(0).length).toBeGreaterThan(1)
  })

  it('the database, so long that it is left out of a sweep: its call is entered all the same', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    const gate = gatedModel()
    const model = scriptedModel([gate.model.stream, says('Whole.')])
    let isAway = false
    let looks = 0
    const catalog = new Proxy(story.catalog, {
      get: (target, name) => {
        if (name !== 'runsOfWorker') return Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name)
        return async (id: string) => {
          looks += 1
          return isAway ? [] : target.runsOfWorker(id)
        }
      },
    })
    const ports = { ...story.ports, runQueue: new MemoryRunQueue({ onError: () => undefined }) }
    await using work = await startWorker(story, { model, ports, catalog, timing: impatient })
    await until(() => model.requests.length === 1)
    isAway = true
    await adminQuery(story.database.adminUrl, 'REVOKE UPDATE (status) ON runs FROM bulkhead_app')
    onTestFinished(() => adminQuery(story.database.adminUrl, 'GRANT UPDATE (status) ON runs TO bulkhead_app'))
    gate.open()
    await until(() => work.worker.underWay === 0)
    const before = looks
    await until(() => looks > before + 2)
    await adminQuery(story.database.adminUrl, 'GRANT UPDATE (status) ON runs TO bulkhead_app')
    isAway = false
    expect(shownAfter(await follow(member, run.id))).toBe('Whole.')
    const ledger = await member.db.usageRecord.findMany({ where: { runId: run.id }, orderBy: { attempt: 'asc' } })
    expect(ledger).toMatchObject([
      { attempt: 1, estimated: true },
      { attempt: 2, estimated: false },
    ])
    work.errors.splice(0)
  })

  it('the answer to a claim that was committed: the run is taken back and made', async () => {
    const { member, tenant } = await story.tenant()
    const timing = { ...impatient, overdueAfter: 60_000 }
    await using work = await startWorker(story, { model: scriptedModel([says('Found again.')]), timing })
    const runQueue = new MemoryRunQueue({ onError: () => undefined })
    const { run } = await ask({ ...member, ports: { ...member.ports, runQueue } })
    // As a connection leaves it that broke after the commit: the worker's own claim, of which it knows nothing.
    const claim = await claimRun(story.data.of({ tenantId: tenant.id, userId: null }), tenant.id, work.worker.id)
    expect(claim?.run.id).toBe(run.id)
    expect(shownAfter(await follow(member, run.id))).toBe('Found again.')
    expect(await findRun(member, run.id)).toMatchObject({ status: 'COMPLETED', epoch: 2 })
  })

  it('a wake-up: the run is found all the same', { tags: ['rule-14'] }, async () => {
    const { member } = await story.tenant()
    const runQueue = new MemoryRunQueue({ onError: () => undefined })
    const deaf = { ...member, ports: { ...member.ports, runQueue } }
    await using _ = await startWorker(story, { model: scriptedModel([says('Found.')]), timing: impatient })
    const { run } = await ask(deaf)
    expect(shownAfter(await follow(member, run.id))).toBe('Found.')
  })

  it('the wake-up of a run that was asked for by a clock that is ahead', async () => {
    const { member } = await story.tenant()
    const runQueue = new MemoryRunQueue({ onError: () => undefined })
    const ahead = { ...member, ports: { ...member.ports, runQueue, now: () => Date.now() + 3_600_000 } }
    await using _ = await startWorker(story, { model: scriptedModel([says('Found.')]), timing: impatient })
    const { run } = await ask(ahead)
    expect(shownAfter(await follow(member, run.id))).toBe('Found.')
  })

  it('a cancel signal: the run ends all the same', async () => {
    const { member } = await story.tenant()
    const signals = new MemorySignals({ onError: () => undefined })
    const model = scriptedModel([hangsAfter(['Something'])])
    await using _ = await startWorker(story, { model, ports: { ...story.ports, signals }, timing: impatient })
    const { run } = await ask(member)
    await until(() => model.requests.length === 1)
    await cancelRun(member, { runId: run.id })
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled', text: 'Something' })
  })

  it('a request to cancel that a dead worker did not see: whoever claims the run ends it', async () => {
    const { member } = await story.tenant()
    const { run } = await ask(member)
    await member.db.run.updateMany({ where: { id: run.id }, data: { cancelRequestedAt: new Date() } })
    const model = scriptedModel([says('x')])
    await using _ = await startWorker(story, { model })
    expect(await follow(member, run.id)).toMatchObject([{ type: 'RunCancelled' }])
    expect(model.requests).toHaveLength(0)
  })

  it.each(['with', 'without'])(
    'the conversation, %s a signal: the call is aborted and paid for, and followers are told',
    async (how) => {
      const { member } = await story.tenant()
      const model = scriptedModel([hangsAfter(['Said '])])
      const signals = how === 'with' ? story.ports.signals : new MemorySignals({ onError: () => undefined })
      await using _ = await startWorker(story, { model, ports: { ...story.ports, signals }, timing: impatient })
      const { run } = await ask(member)
      const following = follow(member, run.id)
      await until(() => model.requests.length === 1)
      await deleteConversation(member, { conversationId: run.conversationId })
      expect((await following).at(-1)).toMatchObject({ type: 'RunCancelled', text: 'Said ' })
      expect(await findRun(member, run.id)).toBeNull()
      expect(await member.db.message.count()).toBe(0)
      await until(async () => (await member.db.usageRecord.count({ where: { runId: run.id, estimated: true } })) === 1)
    },
  )
})

/** The story's tenants, where one seems to have a database of its own, whose pool is not to be had until it is told so. */
function withOwnDatabase() {
  const opening = Promise.withResolvers<TenantPool>()
  opening.promise.catch(() => undefined)
  const own = { of: '', fail: () => opening.reject(new DatabaseAway(new Error('It is away.'))) }
  const databaseOf = (tenantId: string) => (tenantId === own.of ? newId() : null)
  const elsewhere = { databaseOf, openPool: () => opening.promise, refresh: async () => undefined }
  const data = new TenantData(new TenantPool({ connectionString: story.database.appUrl }), { elsewhere })
  return { own, data, [Symbol.asyncDispose]: () => data.close() }
}

describe('while the database of one tenant', () => {
  it('is silent, the runs of others end when that is asked for', { tags: ['rule-17'] }, async () => {
    await using away = withOwnDatabase()
    const [globex, acme] = [await story.tenant(), await story.tenant()]
    const signals = new MemorySignals({ onError: () => undefined })
    const gate = gatedModel()
    const model = scriptedModel([gate.model.stream, hangsAfter(['Something'])])
    const ports = { ...story.ports, signals }
    await using work = await startWorker(story, {
      model,
      ports,
      data: away.data,
      timing: { ...impatient, sweep: 60_000 },
      grace: 5_000,
    })
    const theirs = await ask(globex.member)
    await until(() => model.requests.length === 1)
    const { run } = await ask(acme.member)
    await until(() => model.requests.length === 2)
    away.own.of = globex.tenant.id
    await delay(200)
    await cancelRun(acme.member, { runId: run.id })
    expect((await follow(acme.member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled', text: 'Something' })
    away.own.of = ''
    away.own.fail()
    gate.open()
    expect((await follow(globex.member, theirs.run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    for (const error of work.errors.splice(0)) expect(error).toBeInstanceOf(DatabaseAway)
  })

  it('is away, lost runs and wake-ups of others are found', { tags: ['rule-14'] }, async () => {
    await using away = withOwnDatabase()
    const [globex, acme] = [await story.tenant(), await story.tenant()]
    const asleep = (scope: Scope) => ({
      ...scope,
      ports: { ...scope.ports, runQueue: new MemoryRunQueue({ onError: () => undefined }) },
    })
    for (const { member } of [globex, acme]) {
      await ask(asleep(member))
      expect(await claimRun(member.db, member.tenant.id, newId())).not.toBeNull()
    }
    const { run } = await ask(asleep(acme.member))
    away.own.of = globex.tenant.id
    away.own.fail()
    const model = scriptedModel([says('Found.')])
    await using work = await startWorker(story, { model, data: away.data, timing: impatient })
    const lost = await acme.member.db.run.findFirstOrThrow({ where: { status: 'RUNNING' } })
    for (const id of [lost.id, run.id]) expect(shownAfter(await follow(acme.member, id))).toBe('Found.')
    // As long as it works, it fails.
    await work.worker.drain(0)
    expect(work.errors.splice(0)).toEqual(expect.arrayContaining([expect.any(DatabaseAway)]))
  })
})

it('among many workers, not each looks for lost runs each time', async () => {
  const others = 99
  const living = `insert into workers (id, started_at, heartbeat_at) select gen_random_uuid(), now(), now() + interval '1 hour'
    from generate_series(1, ${others})`
  await adminQuery(story.database.adminUrl, living)
  const asked = vi.spyOn(story.catalog, 'livingWorkers')
  const looked = vi.spyOn(story.catalog, 'orphanedRuns')
  {
    // What other tests left is found as well.
    const model = scriptedModel(Array.from({ length: 50 }, () => says('Done.')))
    await using _ = await startWorker(story, { model, timing: { ...impatient, sweep: 5 } })
    await until(() => asked.mock.calls.length >= 100)
  }
  // Four in a hundred on average.
  expect(looked.mock.calls.length).toBeLessThan(25)
  vi.restoreAllMocks()
  await adminQuery(story.database.adminUrl, "delete from workers where heartbeat_at > now() + interval '1 minute'")
})
