import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { type Approval, approveToolCall, listApprovals, rejectToolCall } from '../../src/domain/approval.ts'
import { type Tool, ToolOutcomeUnknown } from '../../src/domain/ports.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { isFinished } from '../../src/domain/run-status.ts'
import { turnsOf } from '../../src/domain/run-turn.ts'
import { RunWorker } from '../../src/domain/run-worker.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { type Death, MortalPool } from '../support/mortal-pool.ts'
import { ask, follow, impatient, startWorker, until } from '../support/run-story.ts'
import { callsTools, type ModelScript, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory({ ports: { tools: { available: async () => new World().tools(null, null) } } })
  // Reads the encoding, for which a busy machine takes seconds.
  story.ports.model.countTokens('gpt-4o-mini', 'Hello?')
})

afterAll(() => story.close())

/** A worker dies at a statement after its model began to answer, or in a call of `pay`, which has happened by then or not. */
type Crash = Death | { inCall: 'before' | 'after' }

const agent = { enabledTools: ['pay', 'look'] }

const calls = [
  { name: 'pay', arguments: '{"amount":7}' },
  { name: 'look', arguments: '{}' },
  { name: 'pay', arguments: '{"amount":500}' },
].map((call, index) => ({ ...call, id: `call_${index}` }))

/** Asks for the calls, and ends once it is told of what they came to. */
const script: ModelScript = (request, signal) =>
  (request.messages.at(-1)?.role === 'tool' ? says('Done.') : callsTools(calls, 'Wait. '))(request, signal)

/** What has happened, by the keys of the calls, and how often the model was asked for the first turn. */
class World {
  readonly effects: string[] = []
  firstTurns = 0

  tools(pool: MortalPool | null, crash: Crash | null): Tool[] {
    const alive = () => pool?.isDead && pool.die()
    const happens = async (idempotencyKey: string, deadly: boolean) => {
      alive()
      const inCall = deadly && crash && 'inCall' in crash ? crash.inCall : null
      if (inCall === 'before') pool?.die()
      this.effects.push(idempotencyKey)
      if (inCall === 'after') pool?.die()
      return 'done'
    }
    const tool = { description: 'A tool.', parameters: { type: 'object' } }
    return [
      {
        ...{ ...tool, name: 'pay', isRepeatable: false },
        asksFirst: (args) => (args as { amount: number }).amount > 100,
        call: (_args, { idempotencyKey }) => happens(idempotencyKey, true),
      },
      {
        ...{ ...tool, name: 'look', isRepeatable: true, asksFirst: () => false },
        call: (_args, { idempotencyKey }) => happens(idempotencyKey, false),
      },
    ]
  }

  model(pool: MortalPool | null, crash: Crash | null) {
    return scriptedModel([
      (request, signal) => {
        if (request.messages.at(-1)?.role !== 'tool') this.firstTurns += 1
        if (crash && 'statement' in crash) pool?.arm(crash)
        return script(request, signal)
      },
    ])
  }

  count(key: string): number {
    return this.effects.filter((effect) => effect === key).length
  }
}

const ledgerOf = (scope: Scope, runId: string) => scope.db.toolCall.findMany({ where: { runId }, orderBy: { place: 'asc' } })

/** Waits until the run is over or waits for a person. */
async function rest(scope: Scope, runId: string): Promise<void> {
  await until(async () => {
    const run = await findRun(scope, runId)
    return run === null || isFinished(run) || run.status === 'WAITING_APPROVAL'
  })
}

/** A worker of its own process, which dies by the crash, unless the run rests before. */
async function workAndDie(world: World, scope: Scope, runId: string, crash: Crash): Promise<void> {
  const pool = new MortalPool({ connectionString: story.database.appUrl, max: 5 })
  const data = new TenantData(pool)
  const runQueue = new MemoryRunQueue({ onError: () => undefined })
  const ports = {
    ...{ ...story.ports, runQueue, model: world.model(pool, crash) },
    tools: { ...story.ports.tools, available: async () => world.tools(pool, crash) },
    // What fails in a dead process is nobody's concern.
    report: () => undefined,
  }
  const worker = new RunWorker({ ...story, data, ports, onError: () => undefined, timing: { ...impatient, watch: 60_000 } })
  await worker.start()
  await runQueue.wake(scope.tenant.id)
  await Promise.race([pool.death(), rest(scope, runId)])
  await worker.drain(0)
  await data.close()
}

type Verdict = 'approve' | 'reject'

/**
 * Lives through the crashes, each of a worker that took the run over, and then through the verdicts of people who are asked, the last of
 * which is given again and again. Answers what must hold of every life.
 */
async function live(scope: Scope, crashes: readonly Crash[], verdicts: readonly Verdict[]) {
  const world = new World()
  const { run } = await ask(scope)
  /** How often each call may have happened. */
  const allowed = new Map<string, number>()
  /** What was completed by the ledger, and how often it had happened then. */
  const completed = new Map<string, number>()
  const left = [...verdicts]
  const look = async () => {
    for (const { id, status, name, arguments: args } of await ledgerOf(scope, run.id)) {
      if (!allowed.has(id)) allowed.set(id, name === 'look' ? Infinity : args.includes('500') ? 0 : 1)
      if (status === 'COMPLETED' && !completed.has(id)) completed.set(id, world.count(id))
      if (completed.has(id)) expect(world.count(id)).toBe(completed.get(id))
      expect(world.count(id)).toBeLessThanOrEqual(allowed.get(id) ?? 0)
    }
  }
  const decide = async () => {
    for (const { node } of (await listApprovals(scope, {})).edges) {
      if (node.runId === run.id) await decideOn(node, (left.length > 1 ? left.shift() : left[0]) ?? 'reject')
    }
  }
  const decideOn = async ({ id, argumentsHash }: Approval, verdict: Verdict) => {
    const decision = { approvalId: id, argumentsHash }
    if (verdict === 'approve') allowed.set(id, (allowed.get(id) ?? 0) + 1)
    const say = () =>
      verdict === 'approve' ? approveToolCall(scope, { ...decision, mayRepeat: true }) : rejectToolCall(scope, decision)
    await Promise.all([say(), say()])
  }
  for (const crash of crashes) {
    const isOpen = turnsOf((await findRun(scope, run.id)) ?? { turns: [] }).length > 0
    const before = world.firstTurns
    await workAndDie(world, scope, run.id, crash)
    if (isOpen) expect(world.firstTurns).toBe(before)
    await look()
    await decide()
  }
  const isOpen = turnsOf((await findRun(scope, run.id)) ?? { turns: [] }).length > 0
  const before = world.firstTurns
  {
    const ports = { ...story.ports, tools: { ...story.ports.tools, available: async () => world.tools(null, null) } }
    await using _ = await startWorker(story, { model: world.model(null, null), ports, timing: impatient, grace: 1_000 })
    await story.ports.runQueue.wake(scope.tenant.id)
    for (;;) {
      await rest(scope, run.id)
      await look()
      if ((await findRun(scope, run.id))?.status !== 'WAITING_APPROVAL') break
      await decide()
    }
  }
  if (isOpen) expect(world.firstTurns).toBe(before)
  await look()
  const ledger = await ledgerOf(scope, run.id)
  for (const { id, status } of ledger) if (status === 'COMPLETED') expect(world.count(id)).toBeGreaterThanOrEqual(1)
  expect(await findRun(scope, run.id)).toMatchObject({ status: 'COMPLETED' })
  expect(await scope.db.message.count({ where: { runId: run.id, role: 'ASSISTANT' } })).toBe(1)
  expect((await follow(scope, run.id)).filter(({ type }) => type === 'RunCompleted')).toHaveLength(1)
  expect(await scope.db.usageRecord.count({ where: { runId: run.id, turn: 1, estimated: false } })).toBeLessThanOrEqual(1)
  return { world, ledger }
}

describe('a worker that dies', () => {
  /** From the end of the model's answer to that of the turn after the calls. */
  const statements = Array.from({ length: 16 }, (_, index) => index + 1)

  it.each(statements)(
    'at statement %i after its model answered: everything happens once, or waits for a person',
    async (statement) => {
      const { member } = await story.tenant({ agent })
      for (const isCarriedOut of [false, true]) {
        const { world, ledger } = await live(member, [{ statement, isCarriedOut }], ['reject'])
        const [pay, look, ask] = ledger
        expect(ledger).toHaveLength(3)
        expect(['COMPLETED', 'REJECTED']).toContain(pay?.status)
        expect([look?.status, ask?.status]).toEqual(['COMPLETED', 'REJECTED'])
        expect(world.count(ask?.id ?? '')).toBe(0)
      }
    },
  )

  it('before a call that it had noted to begin: nobody knows whether it was made, and a person decides', async () => {
    const { member } = await story.tenant({ agent })
    const { world, ledger } = await live(member, [{ inCall: 'before' }], ['reject'])
    expect(ledger[0]).toMatchObject({ status: 'REJECTED', startedAt: expect.any(Date) })
    expect(ledger[0]?.result).toMatch(/^It is not known/)
    expect(world.count(ledger[0]?.id ?? '')).toBe(0)
  })

  it('after a call took effect: it is not made again, unless a person says that it may be', async () => {
    const { member } = await story.tenant({ agent })
    for (const [verdict, times] of [
      ['reject', 1],
      ['approve', 2],
    ] as const) {
      const { world, ledger } = await live(member, [{ inCall: 'after' }], [verdict])
      expect(world.count(ledger[0]?.id ?? '')).toBe(times)
    }
  })

  it('however often and wherever, whatever people decide: no call is made more often than they agreed to', async () => {
    const { member } = await story.tenant({ agent })
    const crash: fc.Arbitrary<Crash> = fc.oneof(
      fc.record({ statement: fc.integer({ min: 1, max: 16 }), isCarriedOut: fc.boolean() }),
      fc.record({ inCall: fc.constantFrom('before' as const, 'after' as const) }),
    )
    const verdicts = fc.array(fc.constantFrom('approve' as const, 'reject' as const), { minLength: 1, maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(fc.array(crash, { maxLength: 3 }), verdicts, async (crashes, decisions) => {
        await live(member, crashes, decisions)
      }),
      { numRuns: 12 },
    )
  })
})

describe('a call that cannot be repeated', () => {
  const once: Tool = {
    ...{ name: 'pay', description: 'Pays.', parameters: { type: 'object' }, isRepeatable: false, asksFirst: () => false },
    call: async () => {
      throw new ToolOutcomeUnknown('The connection broke.')
    },
  }

  it('and whose tool cannot tell what came of it waits for a person, who has to say that it may be made twice', async () => {
    const { member } = await story.tenant({ agent })
    const ports = { ...story.ports, tools: { ...story.ports.tools, available: async () => [once] } }
    const model = scriptedModel([callsTools([{ name: 'pay', arguments: '{}' }]), says('I see.')])
    await using _ = await startWorker(story, { model, ports })
    const { run } = await ask(member)
    await rest(member, run.id)
    const [asked] = (await listApprovals(member, {})).edges.map(({ node }) => node)
    const decision = { approvalId: asked?.id ?? '', argumentsHash: asked?.argumentsHash ?? '' }
    expect(asked).toMatchObject({ status: 'AMBIGUOUS', startedAt: expect.any(Date), decidedAt: null })
    await expect(approveToolCall(member, decision)).rejects.toThrow('mayRepeat')
    await rejectToolCall(member, decision)
    const events = await follow(member, run.id)
    expect(events.find(({ type }) => type === 'ApprovalRequested')).toMatchObject({ mayHaveHappened: true })
    expect(events.find(({ type }) => type === 'ToolCallFinished')).toMatchObject({ outcome: 'UNKNOWN' })
    expect(model.requests[1]?.messages.at(-1)?.content).toMatch(/^It is not known whether this call took effect/)
  })

  it('and is under way when its run is cancelled is left as unknown, and nobody is asked', async () => {
    const { member } = await story.tenant({ agent })
    const begun = Promise.withResolvers<void>()
    const slow: Tool = {
      ...once,
      call: () => {
        begun.resolve()
        return new Promise(() => undefined)
      },
    }
    const ports = { ...story.ports, tools: { ...story.ports.tools, available: async () => [slow] } }
    await using _ = await startWorker(story, { model: scriptedModel([callsTools([{ name: 'pay', arguments: '{}' }])]), ports })
    const { run } = await ask(member)
    await begun.promise
    await cancelRun(member, { runId: run.id })
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled' })
    expect(await ledgerOf(member, run.id)).toMatchObject([{ status: 'AMBIGUOUS', finishedAt: expect.any(Date), expiresAt: null }])
    expect((await listApprovals(member, {})).edges).toEqual([])
  })

  it('goes on when it can be repeated after all, under the same key', async () => {
    const { member } = await story.tenant({ agent })
    const keys: string[] = []
    const tool = (isRepeatable: boolean, call: Tool['call']): Tool[] => [{ ...once, isRepeatable, call }]
    const model = scriptedModel([callsTools([{ name: 'pay', arguments: '{}' }]), says('Done.')])
    const gone = Promise.withResolvers<void>()
    const first = tool(true, async (_args, { idempotencyKey, signal }) => {
      keys.push(idempotencyKey)
      gone.resolve()
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      return ''
    })
    const { run } = await ask(member)
    {
      await using _ = await startWorker(story, {
        model,
        ports: { ...story.ports, tools: { ...story.ports.tools, available: async () => first } },
      })
      await story.ports.runQueue.wake(member.tenant.id)
      await gone.promise
    }
    const second = tool(true, async (_args, { idempotencyKey }) => {
      keys.push(idempotencyKey)
      return 'done'
    })
    await using _ = await startWorker(story, {
      model,
      ports: { ...story.ports, tools: { ...story.ports.tools, available: async () => second } },
    })
    await story.ports.runQueue.wake(member.tenant.id)
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(keys).toHaveLength(2)
    expect(new Set(keys).size).toBe(1)
    expect(model.requests).toHaveLength(2)
  })
})
