import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { beginCall, settleCalls } from '../../src/domain/call-attempt.ts'
import { deleteConversation } from '../../src/domain/conversation.ts'
import { Unavailable } from '../../src/domain/errors.ts'
import { settle } from '../../src/domain/escrow.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Ports } from '../../src/domain/ports.ts'
import { type CallTerms, termsAt } from '../../src/domain/pricing.ts'
import type { Prompt } from '../../src/domain/prompt.ts'
import { readQuota } from '../../src/domain/quota.ts'
import { measureDrift } from '../../src/domain/quota-drift.ts'
import { seeded } from '../../src/domain/quota-terms.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import { endClaim, requeue, saveTurn } from '../../src/domain/run-ending.ts'
import type { RunEvent } from '../../src/domain/run-event.ts'
import { logEpoch } from '../../src/domain/run-log.ts'
import type { CallUsage, RunTask } from '../../src/domain/run-loop.ts'
import type { Turn } from '../../src/domain/run-turn.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { entryNow } from '../../src/domain/usage-feed.ts'
import { countTokens } from '../../src/llm/token-count.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { adminQuery } from '../support/database-url.ts'
import { ask, follow, impatient, startWorker, until } from '../support/run-story.ts'
import { hangsAfter, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

// No worker of a later test finds them.
afterEach(() =>
  adminQuery(story.database.adminUrl, `update runs set status = 'CANCELLED', finished_at = now() where finished_at is null`),
)

afterAll(() => story.close())

/** A call of 1,000 tokens, of which at most 50 come back. */
const prompt: Prompt = {
  request: { model: 'gpt-4o-mini', messages: [], temperature: 0, maxOutputTokens: 50, tools: [] },
  inputTokens: 1_000,
}

/** A scope that wakes no worker. */
function unheard(scope: Scope): Scope {
  return { ...scope, ports: { ...scope.ports, runQueue: new MemoryRunQueue({ onError: () => undefined }) } }
}

async function claim(scope: Scope): Promise<RunTask['run']> {
  const claimed = await claimRun(scope.db, scope.tenant.id, newId())
  if (!claimed) throw new Error('No run waits.')
  return claimed.run
}

async function terms(scope: Scope): Promise<CallTerms> {
  const found = await termsAt(scope.db, scope.tenant.id, 'gpt-4o-mini', scope.ports.now())
  if (!found) throw new Error('The model has no price.')
  return found
}

const begin = async (scope: Scope, run: RunTask['run'], turn = 0, userPseudonym: string | null = null) =>
  beginCall(scope.db, run, { turn, prompt, terms: await terms(scope), userPseudonym })

/** A run whose worker dies in its call, after `events` got into its log. */
async function dead(scope: Scope, events: RunEvent[] = []): Promise<RunTask['run']> {
  await ask(unheard(scope))
  const run = await claim(scope)
  expect(await begin(scope, run)).toBe(true)
  if (events.length > 0) await append(run, events)
  return run
}

function append({ tenantId, id, epoch }: RunTask['run'], events: RunEvent[]) {
  return story.ports.eventLog.append({ tenantId: tenantId as never, runId: id }, logEpoch(epoch), 1, events)
}

const delta = (text: string): RunEvent => ({ type: 'TextDelta', text })

const ledger = (scope: Scope, runId: string) =>
  scope.db.usageRecord.findMany({ where: { runId }, orderBy: [{ turn: 'asc' }, { attempt: 'asc' }] })

const attempts = (scope: Scope) => scope.db.modelCallAttempt.findMany()

const said = 'It was a bright cold day in April, and the clocks were striking thirteen.'
const failure = { code: 'X', message: 'x' }
const entry = { now: 0, fed: false }

it('what was noted with the claim stands for a second, and while it is the call that is made', async () => {
  const { member } = await story.tenant()
  await ask(unheard(member))
  const run = await claim(member)
  const call = { turn: 0, prompt, terms: await terms(member), userPseudonym: null }
  const noted = { inputTokens: 1_000, terms: call.terms, notedAt: performance.now(), stored: Promise.resolve() }
  // Nobody has noted it, so that is what can be told apart.
  expect(await beginCall(member.db, run, call, noted)).toBe(true)
  expect(await attempts(member)).toEqual([])
  for (const other of [
    { ...noted, notedAt: noted.notedAt - 1_001 },
    { ...noted, inputTokens: 999 },
    { ...noted, terms: await terms(member) },
  ]) {
    expect(await beginCall(member.db, run, call, other)).toBe(true)
    expect(await attempts(member)).toMatchObject([{ turn: 0, attempt: 1, inputTokens: 1_000, model: 'gpt-4o-mini' }])
  }
  await requeue(member.db, run)
  expect(await beginCall(member.db, run, call, { ...noted, inputTokens: 999 })).toBe(false)
  expect(await attempts(member)).toEqual([])
})

describe('a call whose worker died', () => {
  it.each([
    { when: 'in the middle of the stream', events: [delta(said.slice(0, 20)), delta(said.slice(20))], output: countTokens(said) },
    { when: 'before the first byte', events: [], output: 0 },
  ])('$when is entered once, by the next claim, with what had come', async ({ events, output }) => {
    const { member } = await story.tenant()
    const { id } = await dead(member, events)
    await using _ = await startWorker(story, { model: scriptedModel([says('Whole.', usage(900, 2))]), timing: impatient })
    expect((await follow(member, id)).at(-1)).toMatchObject({
      type: 'RunCompleted',
      usage: { inputTokens: 1_900, outputTokens: output + 2, estimated: true },
    })
    expect(await ledger(member, id)).toMatchObject([
      {
        attempt: 1,
        inputTokens: 1_000,
        outputTokens: output,
        estimated: true,
        model: 'gpt-4o-mini',
        costNanos: BigInt(1_000 * 150 + output * 600),
      },
      { attempt: 2, inputTokens: 900, outputTokens: 2, estimated: false },
    ])
    expect(await attempts(member)).toEqual([])
  })

  it('is charged at the price that was noted, to the end user it was for', async () => {
    const { endUser, admin } = await story.tenant()
    await ask(unheard(endUser))
    const run = await claim(admin)
    const agreed = await terms(admin)
    const userPseudonym = newId()
    await beginCall(endUser.db, run, { turn: 0, prompt, terms: agreed, userPseudonym })
    await settleCalls(admin, run.id)
    // 150 nano-USD per token of input.
    expect(await ledger(admin, run.id)).toMatchObject([{ costNanos: 150_000n, priceId: agreed.listed?.id, userPseudonym }])
  })

  it('in a later turn is entered without the turns before, and with the tools it called', async () => {
    const { member } = await story.tenant()
    const run = await dead(member)
    const call = (id: string) => ({ id, name: 'current_time', arguments: `{"zone":"${id}"}` })
    const turn: Turn = {
      text: 'First. ',
      toolCalls: [call('a')],
      results: [{ toolCallId: 'a', outcome: 'COMPLETED', content: 'noon' }],
      ...{ outputTokens: 1, promptTokens: 1 },
    }
    await saveTurn(member.db, run, [turn], [], { turn: 0, usage: usage(1, 1) }, await terms(member), entry)
    await begin(member, run, 1)
    const started = (id: string): RunEvent => {
      const { name, arguments: args } = call(id)
      return { type: 'ToolCallStarted', toolCallId: id, name, arguments: args }
    }
    const finished: RunEvent = { type: 'ToolCallFinished', toolCallId: 'a', outcome: 'COMPLETED' }
    await append(run, [delta('First. '), started('a'), finished, delta(said), started('b')])
    await settleCalls(member, run.id, 1)
    const outputTokens = [said, 'current_time', '{"zone":"b"}'].reduce((sum, text) => sum + countTokens(text), 0)
    expect(await ledger(member, run.id)).toMatchObject([
      { turn: 0, estimated: false },
      { turn: 1, outputTokens, estimated: true },
    ])
  })

  it('is not entered with what the claim before it had said', async () => {
    const { member } = await story.tenant()
    await dead(member, [delta(said)])
    await member.db.run.updateMany({ data: { status: 'QUEUED' } })
    const second = await claim(member)
    await begin(member, second)
    await settleCalls(member, second.id)
    expect(await ledger(member, second.id)).toMatchObject([
      { attempt: 1, outputTokens: countTokens(said) },
      { attempt: 2, outputTokens: 0 },
    ])
  })

  it('is entered from the last restatement when the log was trimmed', async () => {
    const { member } = await story.tenant()
    const { id, ...run } = await dead(member)
    const events = { events: [{ cursor: { epoch: logEpoch(1), seq: 7 }, event: delta('lost') }], complete: false }
    events.events.push({ cursor: { epoch: logEpoch(1), seq: 8 }, event: { type: 'StreamReset', text: said } as never })
    const eventLog = { ...story.ports.eventLog, read: async () => events } as Ports['eventLog']
    await settleCalls({ ...member, ports: { ...member.ports, eventLog } }, id)
    expect(await ledger(member, id)).toMatchObject([{ attempt: run.epoch, outputTokens: countTokens(said) }])
  })

  it('costs its input alone when the log cannot be reached', async () => {
    const { member } = await story.tenant()
    const { id } = await dead(member, [delta(said)])
    const read = () => Promise.reject(new Unavailable('No log.', 1))
    await settleCalls({ ...member, ports: { ...member.ports, eventLog: { ...story.ports.eventLog, read } as never } }, id)
    expect(await ledger(member, id)).toMatchObject([{ inputTokens: 1_000, outputTokens: 0, estimated: true }])
  })

  it('is entered when its run is ended while it waits to be claimed again', async () => {
    const { member } = await story.tenant()
    const run = await dead(member, [delta(said)])
    await requeue(member.db, run)
    await cancelRun(member, { runId: run.id })
    const entered = { inputTokens: 1_000, outputTokens: countTokens(said), estimated: true }
    expect(await ledger(member, run.id)).toMatchObject([entered])
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled', usage: entered })
  })

  it('is entered when nobody is left to claim its run, since the conversation was deleted', async () => {
    const { member } = await story.tenant()
    const run = await dead(member, [delta(said)])
    await deleteConversation(member, { conversationId: run.conversationId })
    await using _ = await startWorker(story, { timing: impatient })
    await until(async () => (await attempts(member)).length === 0)
    expect(await ledger(member, run.id)).toMatchObject([{ outputTokens: countTokens(said), estimated: true }])
  })
})

/** Holds tokens for the run's first call, as its worker does. */
async function hold(scope: Scope, run: RunTask['run'], tokens: number): Promise<void> {
  const request = { runId: run.id, call: `${run.id}/0/${run.epoch}` as const, tokens, least: tokens }
  const held = await seeded(scope, (version) => scope.ports.admission.hold(scope.tenant.id, { version, ...request }))
  expect(held.outcome).toBe('held')
}

/** The run fails, after the call. */
const fail = async (scope: Scope, run: RunTask['run'], call: CallUsage) =>
  endClaim(scope.db, run, { outcome: 'failed', failure, turns: [], call, terms: await terms(scope) }, entryNow(scope.ports))

describe('the counters and the ledger agree on a call', () => {
  const held = 1_400

  it('whose worker died before it held tokens for it', async () => {
    const { member } = await story.tenant()
    const run = await dead(member)
    await settleCalls(member, run.id)
    expect(await ledger(member, run.id)).toMatchObject([{ inputTokens: 1_000, estimated: true }])
    expect(await measureDrift(member)).toBe(0)
    expect(await readQuota(member)).toMatchObject({ spent: 1_000 })
  })

  it('whose worker died once it was entered, and before the counters heard of it', async () => {
    const { member } = await story.tenant()
    const run = await dead(member)
    await hold(member, run, held)
    await fail(member, run, { turn: 0, usage: usage(999, 99) })
    await settle(member, { runId: run.id, calls: [], leave: 1 })
    expect(await measureDrift(member)).toBe(0)
    expect(await readQuota(member)).toMatchObject({ spent: 1_098, reserved: 0 })
  })

  it.each([
    { title: 'reports it', reported: usage(999, 99) },
    { title: 'has nothing to report', reported: null },
  ])('whose worker only seemed dead, holds tokens late, and $title', async ({ reported }) => {
    const { member } = await story.tenant()
    const run = await dead(member)
    await settleCalls(member, run.id)
    await hold(member, run, held)
    const { calls } = await fail(member, run, { turn: 0, usage: reported })
    await settle(member, { runId: run.id, calls, leave: 1 })
    expect(await measureDrift(member)).toBe(0)
    expect(await readQuota(member)).toMatchObject({ spent: 1_000, reserved: 0 })
  })

  it('whose worker had nothing to report after somebody entered it, and had not told the counters', async () => {
    const { member } = await story.tenant()
    const run = await dead(member)
    await hold(member, run, held)
    const silent = { ...member, ports: { ...member.ports, admission: { settle: async () => null } as never } }
    await settleCalls(silent, run.id)
    const { calls } = await fail(member, run, { turn: 0, usage: null })
    await settle(member, { runId: run.id, calls, leave: 1 })
    expect(await measureDrift(member)).toBe(0)
    expect(await readQuota(member)).toMatchObject({ spent: 1_000, reserved: 0 })
  })
})

describe('a call that two may enter', () => {
  it('stays as it was estimated when its worker turns out to live', async () => {
    const { member } = await story.tenant()
    const run = await dead(member, [delta(said)])
    await settleCalls(member, run.id)
    const call = { turn: 0, usage: usage(999, 999) }
    await endClaim(member.db, run, { outcome: 'failed', failure, turns: [], call, terms: await terms(member) }, entry)
    expect(await ledger(member, run.id)).toMatchObject([{ inputTokens: 1_000, estimated: true }])
    expect(await findRun(member, run.id)).toMatchObject({ status: 'FAILED' })
  })

  it('stays as its worker reported it when that was first, and however often it is reported', async () => {
    const { member } = await story.tenant()
    const run = await dead(member, [delta(said)])
    const call = { turn: 0, usage: usage(999, 999) }
    for (const _ of [1, 2]) await saveTurn(member.db, run, [], [], call, await terms(member), entry)
    await settleCalls(member, run.id)
    expect(await ledger(member, run.id)).toMatchObject([{ inputTokens: 999, outputTokens: 999, estimated: false }])
  })

  it('is entered by one of them when they do it at once', async () => {
    const { member } = await story.tenant()
    const run = await dead(member)
    const call = { turn: 0, usage: usage(999, 999) }
    const charged = await terms(member)
    await Promise.all([
      ...[1, 2, 3].map(() => settleCalls(member, run.id)),
      ...[1, 2, 3].map(() => saveTurn(member.db, run, [], [], call, charged, entry)),
    ])
    expect(await ledger(member, run.id)).toHaveLength(1)
    expect(await attempts(member)).toEqual([])
  })
})

describe('an attempt', () => {
  it('is there before the model is called, and gone with the call', async () => {
    const { member } = await story.tenant()
    const model = scriptedModel([hangsAfter(['Some'])])
    await using _ = await startWorker(story, { model })
    const { run } = await ask(member)
    await until(() => model.requests.length === 1)
    expect(await attempts(member)).toMatchObject([{ runId: run.id, turn: 0, call: 0, attempt: 1, outputBound: 4_096 }])
    await cancelRun(member, { runId: run.id })
    await follow(member, run.id)
    const [record] = await ledger(member, run.id)
    expect(record).toMatchObject({ attempt: 1, estimated: true, outputTokens: 1 })
    expect(await attempts(member)).toEqual([])
  })

  it('is not made by a claim that was lost, so the model is not called', async () => {
    const { member } = await story.tenant()
    await ask(unheard(member))
    const run = await claim(member)
    await requeue(member.db, run)
    expect(await begin(member, run)).toBe(false)
    expect(await begin(member, { ...run, epoch: 0 })).toBe(false)
    expect(await attempts(member)).toEqual([])
  })

  it('leaves what the call had used when the worker fails on its own account', async () => {
    const { member } = await story.tenant()
    const defect = async function* () {
      yield { type: 'text' as const, text: said }
      await until(async () => (await story.ports.eventLog.read({ tenantId: member.tenant.id, runId }, null)).events.length > 0)
      throw new TypeError('A defect.')
    }
    let runId = ''
    await using work = await startWorker(story, { model: scriptedModel([defect]) })
    const { run } = await ask(member)
    runId = run.id
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunFailed', failure: { code: 'INTERNAL' } })
    expect(await ledger(member, run.id)).toMatchObject([{ outputTokens: countTokens(said), estimated: true }])
    expect(await attempts(member)).toEqual([])
    expect(work.errors.splice(0)).toMatchObject([{ message: 'A defect.' }])
  })
})
