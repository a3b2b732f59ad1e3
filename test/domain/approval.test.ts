import { createHash } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  type Approval,
  approvalStatus,
  approveToolCall,
  findApproval,
  listApprovals,
  rejectToolCall,
} from '../../src/domain/approval.ts'
import { deleteConversation } from '../../src/domain/conversation.ts'
import { Conflict, Forbidden, NotFound } from '../../src/domain/errors.ts'
import type { Tool } from '../../src/domain/ports.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { resumeRun } from '../../src/domain/run-resume.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { limitTo } from '../support/overspend.ts'
import { ask, follow, impatient, shownAfter, startWorker, until } from '../support/run-story.ts'
import { callsTools, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

/** What the tools did to the world. */
const made: { args: unknown; key: string }[] = []

const pay: Tool = {
  name: 'pay',
  description: 'Pays somebody.',
  parameters: { type: 'object', properties: { amount: { type: 'number' } } },
  isRepeatable: false,
  asksFirst: (args) => (args as { amount: number }).amount > 100,
  call: async (args, { idempotencyKey }) => {
    made.push({ args, key: idempotencyKey })
    return 'paid'
  },
}

let story: Story

beforeAll(async () => {
  story = await startStory({ ports: { tools: { available: async () => [pay] } } })
  // Reads the encoding, for which a busy machine takes seconds.
  story.ports.model.countTokens('gpt-4o-mini', 'Hello?')
})

afterAll(() => story.close())

beforeEach(() => {
  made.length = 0
})

const newTenant = () => story.tenant({ agent: { enabledTools: ['pay'] } })

const pays = (...amounts: number[]) =>
  callsTools(
    amounts.map((amount) => ({ name: 'pay', arguments: `{"amount": ${amount}}` })),
    'Wait. ',
  )

/** In the order in which the model asked for them. */
const pending = async (scope: Scope): Promise<Approval[]> =>
  (await listApprovals(scope, {})).edges.map(({ node }) => node).toSorted((a, b) => a.turn - b.turn || a.place - b.place)

const statusOf = async (scope: Scope, runId: string) => (await findRun(scope, runId))?.status

/** Asks, and waits until people are asked in turn. */
async function askAndWait({ member }: TenantStory) {
  const { run } = await ask(member)
  await until(async () => (await statusOf(member, run.id)) === 'WAITING_APPROVAL')
  return { run, approvals: await pending(member) }
}

const about = ({ id, argumentsHash }: Approval) => ({ approvalId: id, argumentsHash })

/** As if the time to decide were over. */
async function expire(runId: string): Promise<void> {
  await asAdmin(story.database, async (admin) => {
    await admin.query(`update tool_calls set expires_at = now() - interval '1 second' where run_id = $1`, [runId])
    await admin.query(`update runs set queued_at = now() - interval '1 second' where id = $1`, [runId])
  })
}

describe('a call that a person has to agree to', () => {
  it('waits, and is made with the very arguments once somebody does; the model is not asked again', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), says('Done.', usage(20, 1))])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    const following = follow(tenant.member, run.id)
    const text = '{"amount": 500}'
    expect(approvals).toMatchObject([{ name: 'pay', arguments: text, runId: run.id, turn: 0, place: 0, status: 'WAITING' }])
    const [call] = approvals as [Approval]
    expect(call.argumentsHash).toBe(createHash('sha256').update(text).digest('hex'))
    expect(call.expiresAt?.getTime()).toBeCloseTo(Date.now() + 7 * 86_400_000, -5)
    expect(await findRun(tenant.member, run.id)).toMatchObject({ workerId: null, resumeAt: call.expiresAt, finishedAt: null })
    expect(made).toEqual([])

    const { approval } = await approveToolCall(tenant.member, { ...about(call), reason: 'They earned it.' })
    expect(approval).toMatchObject({ decidedBy: tenant.member.actor.name, reason: 'They earned it.' })
    const events = await following
    expect(made).toEqual([{ args: { amount: 500 }, key: call.id }])
    expect(events.filter(({ type }) => !/Text|Reset/.test(type))).toMatchObject([
      {
        type: 'ApprovalRequested',
        approvalId: call.id,
        toolCallId: 'call_0',
        name: 'pay',
        arguments: text,
        argumentsHash: call.argumentsHash,
        mayHaveHappened: false,
        expiresAt: call.expiresAt?.toISOString(),
      },
      { type: 'RunPaused', status: 'WAITING_APPROVAL', resumeAt: call.expiresAt?.toISOString() },
      { type: 'RunResumed' },
      { type: 'ToolCallStarted', toolCallId: 'call_0' },
      { type: 'ToolCallFinished', toolCallId: 'call_0', outcome: 'COMPLETED' },
      { type: 'RunCompleted' },
    ])
    expect(shownAfter(events)).toBe('Wait. Done.')
    expect(model.requests).toHaveLength(2)
    expect(model.requests[1]?.messages.at(-1)).toEqual({ role: 'tool', toolCallId: 'call_0', content: 'paid' })
    expect(await tenant.admin.db.usageRecord.count()).toBe(2)
    expect(approvalStatus((await findApproval(tenant.member, call.id)) as Approval)).toBe('APPROVED')
    expect(await pending(tenant.member)).toEqual([])
  })

  it('is not made when somebody decides against it, and the model is told so', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), says('I see.')])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    await rejectToolCall(tenant.admin, { ...about(approvals[0] as Approval), reason: 'Too much.' })
    const events = await follow(tenant.member, run.id)
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(events.find(({ type }) => type === 'ToolCallFinished')).toMatchObject({ outcome: 'REJECTED' })
    expect(model.requests[1]?.messages.at(-1)).toMatchObject({
      content: 'A person decided that this call is not to be made. They said: Too much.',
    })
    expect(made).toEqual([])
  })

  it('counts as rejected when nobody decides in time, whoever else does afterwards', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), says('I see.')])
    await using _ = await startWorker(story, { model, timing: impatient })
    const { run, approvals } = await askAndWait(tenant)
    const [call] = approvals as [Approval]
    await expire(run.id)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(model.requests[1]?.messages.at(-1)?.content).toMatch(/^Nobody decided in time/)
    expect(await findApproval(tenant.member, call.id)).toMatchObject({ status: 'EXPIRED', decidedBy: null })
    await expect(approveToolCall(tenant.member, about(call))).rejects.toThrow(Conflict)
    await expect(rejectToolCall(tenant.member, about(call))).rejects.toThrow(Conflict)
    expect(made).toEqual([])
  })

  it('cannot be decided about any more from the moment it expires, though nobody has noticed', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), says('I see.')])
    await using worker = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    await worker.worker.drain(0)
    await expire(run.id)
    await expect(approveToolCall(tenant.member, about(approvals[0] as Approval))).rejects.toThrow(Conflict)
    expect(await statusOf(tenant.member, run.id)).toBe('WAITING_APPROVAL')
    // So that no other test's worker goes on with it.
    await cancelRun(tenant.member, { runId: run.id })
  })

  it('waits on its own: others of its turn are made at once, each once, and the run goes on when all are decided', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500, 7, 600), says('Done.')])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    expect(made.map(({ args }) => args)).toEqual([{ amount: 7 }])
    expect(approvals.map(({ place }) => place)).toEqual([0, 2])
    const [first, third] = approvals as [Approval, Approval]
    await approveToolCall(tenant.member, about(first))
    expect(await findRun(tenant.member, run.id)).toMatchObject({ status: 'WAITING_APPROVAL', resumeAt: third.expiresAt })
    await rejectToolCall(tenant.member, about(third))
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(made.map(({ args }) => args)).toEqual([{ amount: 7 }, { amount: 500 }])
    expect(model.requests[1]?.messages.slice(-3).map(({ content }) => content)).toEqual([
      'paid',
      'paid',
      expect.stringContaining('not to be made'),
    ])
  })

  it('can be decided about while others of its turn are still under way', async () => {
    const tenant = await newTenant()
    const gate = Promise.withResolvers<void>()
    const slow: Tool = { ...pay, call: async (args, context) => await gate.promise.then(() => pay.call(args, context)) }
    const model = scriptedModel([pays(7, 500), says('Done.')])
    const ports = { ...story.ports, tools: { ...story.ports.tools, available: async () => [slow] } }
    await using _ = await startWorker(story, { model, ports })
    const { run } = await ask(tenant.member)
    await until(async () => (await pending(tenant.member)).length === 1)
    const [call] = (await pending(tenant.member)) as [Approval]
    await approveToolCall(tenant.member, about(call))
    expect(await statusOf(tenant.member, run.id)).toBe('RUNNING')
    gate.resolve()
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(made.map(({ args }) => args)).toEqual([{ amount: 7 }, { amount: 500 }])
  })

  it('is one to whose arguments the rule cannot be applied', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([callsTools([{ name: 'pay', arguments: 'null' }]), says('I see.')])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    expect(approvals).toMatchObject([{ arguments: 'null' }])
    await rejectToolCall(tenant.member, about(approvals[0] as Approval))
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
  })

  it('is told of to the admins, once, and without the arguments', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500), says('Done.')]) })
    const { run, approvals } = await askAndWait(tenant)
    await until(async () => (await tenant.admin.db.notification.count()) === 1)
    const notices = await tenant.admin.db.notification.findMany()
    const { argumentsHash, expiresAt } = approvals[0] as Approval
    expect(notices).toMatchObject([
      {
        kind: 'APPROVAL_REQUESTED',
        title: `${tenant.tenant.name}: a call of pay waits for approval`,
        details: { tool: 'pay', argumentsHash, mayHaveHappened: false, expiresAt: expiresAt?.toISOString() },
      },
    ])
    expect(JSON.stringify(notices)).not.toContain('amount')
    expect(await tenant.admin.db.outboxEntry.findMany()).toMatchObject([{ channel: 'EMAIL' }])
    await cancelRun(tenant.member, { runId: run.id })
  })

  it('asks anew in each turn', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), pays(500), says('Done.')])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    await approveToolCall(tenant.member, about(approvals[0] as Approval))
    await until(async () => (await pending(tenant.member)).length === 1)
    const [second] = (await pending(tenant.member)) as [Approval]
    expect(second).toMatchObject({ turn: 1, argumentsHash: approvals[0]?.argumentsHash })
    // The same answer again is for the first one.
    await approveToolCall(tenant.member, about(approvals[0] as Approval))
    expect(made).toHaveLength(1)
    await until(async () => (await statusOf(tenant.member, run.id)) === 'WAITING_APPROVAL')
    await approveToolCall(tenant.member, about(second))
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(new Set(made.map(({ key }) => key)).size).toBe(2)
  })
})

describe('a decision', () => {
  it('is bound to the arguments, is the same however often it is made, and is not taken back', async () => {
    const tenant = await newTenant()
    const model = scriptedModel([pays(500), says('Done.')])
    await using _ = await startWorker(story, { model })
    const { run, approvals } = await askAndWait(tenant)
    const [call] = approvals as [Approval]
    const other = { approvalId: call.id, argumentsHash: createHash('sha256').update('{"amount": 5}').digest('hex') }
    await expect(approveToolCall(tenant.member, other)).rejects.toThrow(Conflict)
    await expect(rejectToolCall(tenant.member, other)).rejects.toThrow(Conflict)
    expect(await statusOf(tenant.member, run.id)).toBe('WAITING_APPROVAL')

    const decisions = await Promise.all([1, 2, 3].map(() => approveToolCall(tenant.member, about(call))))
    expect(new Set(decisions.map(({ approval }) => approval.decidedAt?.getTime())).size).toBe(1)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    await approveToolCall(tenant.admin, about(call))
    await expect(rejectToolCall(tenant.member, about(call))).rejects.toThrow('The call was approved already.')
    expect(made).toHaveLength(1)
    const audited = await tenant.admin.db.auditEvent.findMany({ where: { action: 'approveToolCall' } })
    expect(audited).toMatchObject([{ subject: 'Approval', subjectId: call.id, details: { tool: 'pay' } }])
  })

  it('of two who contradict each other at once is one of the two', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500), says('Done.')]) })
    const { run, approvals } = await askAndWait(tenant)
    const [call] = approvals as [Approval]
    const both = [approveToolCall(tenant.member, about(call)), rejectToolCall(tenant.admin, about(call))]
    const outcomes = await Promise.allSettled(both)
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    await follow(tenant.member, run.id)
    expect(made).toHaveLength(outcomes[0]?.status === 'fulfilled' ? 1 : 0)
  })

  it('is for members and admins of the tenant alone', async () => {
    const tenant = await newTenant()
    const other = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500), says('Done.')]) })
    const { approvals } = await askAndWait(tenant)
    const decision = about(approvals[0] as Approval)
    for (const decide of [approveToolCall, rejectToolCall]) {
      await expect(decide(tenant.endUser, decision)).rejects.toThrow(Forbidden)
      await expect(decide(other.admin, decision)).rejects.toThrow(NotFound)
      await expect(decide(other.admin, { ...decision, approvalId: 'nothing' })).rejects.toThrow(NotFound)
    }
    await expect(listApprovals(tenant.endUser, {})).rejects.toThrow(Forbidden)
    expect(await pending(other.admin)).toEqual([])
  })
})

describe('a run that waits for a person', () => {
  it('has no session and no worker, and outlives all workers', async () => {
    const tenant = await newTenant()
    await limitTo(story.database, tenant.tenant.id, { CONCURRENT_SESSIONS: 1 })
    const own = { ...tenant, member: await story.signIn(tenant.keys.member) }
    const model = scriptedModel([pays(500), says('Other.'), says('Done.')])
    const { run, approvals } = await (async () => {
      await using _ = await startWorker(story, { model })
      const waiting = await askAndWait(own)
      const other = await ask(own.member)
      expect((await follow(own.member, other.run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
      return waiting
    })()
    await approveToolCall(own.member, about(approvals[0] as Approval))
    expect(await statusOf(own.member, run.id)).toBe('QUEUED')
    await using _ = await startWorker(story, { model })
    expect(shownAfter(await follow(own.member, run.id))).toBe('Wait. Done.')
    expect(made).toHaveLength(1)
  })

  it('is told of to those who come late, also when its events are gone, and to no one twice', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500, 600), says('Done.')]) })
    const { run } = await askAndWait(tenant)
    const eventLog = new MemoryEventLog({ onError: () => undefined })
    const forgotten = { ...tenant.member, ports: { ...tenant.member.ports, eventLog } }
    const [late, later] = [follow(tenant.member, run.id, null, 20), follow(forgotten, run.id, null, 20)]
    await new Promise((resolve) => setTimeout(resolve, 300))
    await cancelRun(tenant.member, { runId: run.id })
    const [fromLog, fromRun] = [await late, await later]
    for (const events of [fromLog, fromRun]) {
      expect(shownAfter(events)).toBe('Wait. ')
      expect(events.filter(({ type }) => type === 'ApprovalRequested')).toHaveLength(2)
      expect(events.filter(({ type }) => type === 'RunPaused')).toHaveLength(1)
      expect(events.at(-1)).toMatchObject({ type: 'RunCancelled', text: 'Wait. ' })
    }
    expect(fromRun.map(({ type }) => type)).toEqual([
      'Snapshot',
      'ApprovalRequested',
      'ApprovalRequested',
      'RunPaused',
      'Snapshot',
      'RunCancelled',
    ])
    // A cursor that was handed out in the middle of what it waits for.
    expect((await follow(tenant.member, run.id, fromRun[1]?.cursor)).at(-1)).toMatchObject({ type: 'RunCancelled' })
  })

  it('can be cancelled, and nothing waits any more', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500), says('Done.')]) })
    const { run, approvals } = await askAndWait(tenant)
    const [call] = approvals as [Approval]
    expect((await cancelRun(tenant.member, { runId: run.id })).run).toMatchObject({ status: 'CANCELLED' })
    expect(await pending(tenant.member)).toEqual([])
    expect(await findApproval(tenant.member, call.id)).toMatchObject({ status: 'CANCELLED', finishedAt: expect.any(Date) })
    await expect(approveToolCall(tenant.member, about(call))).rejects.toThrow('The run ended before the call was made.')
  })

  it('takes what it waits for with it when its conversation is deleted', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500)]) })
    const { run, approvals } = await askAndWait(tenant)
    await deleteConversation(tenant.member, { conversationId: run.conversationId })
    await expect(approveToolCall(tenant.member, about(approvals[0] as Approval))).rejects.toThrow(NotFound)
    expect(await tenant.admin.db.toolCall.count()).toBe(0)
  })

  it('is not resumed otherwise', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500)]) })
    const { run } = await askAndWait(tenant)
    await expect(resumeRun(tenant.member, { runId: run.id })).rejects.toThrow('approve or reject')
  })

  it('is an end user’s with its calls', async () => {
    const tenant = await newTenant()
    await using _ = await startWorker(story, { model: scriptedModel([pays(500), says('Done.')]) })
    const { run } = await ask(tenant.endUser)
    await until(async () => (await statusOf(tenant.member, run.id)) === 'WAITING_APPROVAL')
    const following = follow(tenant.endUser, run.id)
    const [call] = (await pending(tenant.member)) as [Approval]
    expect(call.userId).toBe('ursula')
    await approveToolCall(tenant.member, about(call))
    expect((await following).map(({ type }) => type)).toContain('ApprovalRequested')
    const { endUser: stranger } = await story.endUser(tenant.admin, 'stranger')
    expect(await stranger.db.toolCall.count()).toBe(0)
  })
})
