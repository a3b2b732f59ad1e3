import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { BudgetExhausted, Conflict, NotFound } from '../../src/domain/errors.ts'
import { messagesByRun } from '../../src/domain/message.ts'
import { clearQuotaOverride, setQuotaOverride } from '../../src/domain/quota-override.ts'
import { seeded } from '../../src/domain/quota-terms.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { resumeRun } from '../../src/domain/run-resume.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { signInOperator } from '../support/operator.ts'
import { limitTo } from '../support/overspend.ts'
import { ask, follow, shownAfter, startWorker, until } from '../support/run-story.ts'
import { type ModelScript, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

/** One token each. */
const words = (count: number) => Array<string>(count).fill(' the')

/** Says so many words, whatever it was asked for at most; notes whether it was allowed to finish. */
function saysOn(count: number): ModelScript & { wasClosed: boolean } {
  const script: ModelScript = async function* () {
    let isDone = false
    try {
      for (const text of words(count)) yield { type: 'text', text }
      yield { type: 'usage', usage: usage(20, count) }
      yield { type: 'finish', reason: 'STOP' }
      isDone = true
    } finally {
      noted.wasClosed = !isDone
    }
  }
  const noted = Object.assign(script, { wasClosed: false })
  return noted
}

/** Says as many words as it was asked for at most, and reports them. */
const saysAsAsked: ModelScript = async function* ({ maxOutputTokens }) {
  for (const text of words(maxOutputTokens)) yield { type: 'text', text }
  yield { type: 'usage', usage: usage(20, maxOutputTokens) }
  yield { type: 'finish', reason: 'LENGTH' }
}

async function tenantWith(budget: number, settings = ''): Promise<TenantStory> {
  const tenant = await story.tenant()
  const { id } = tenant.tenant
  if (settings) await asAdmin(story.database, (admin) => admin.query(`update tenants set ${settings} where id = $1`, [id]))
  await limitTo(story.database, id, { MONTHLY_TOKENS: budget })
  return { ...tenant, member: await story.signIn(tenant.keys.member), admin: await story.signIn(tenant.keys.admin) }
}

const pausing = "budget_behaviour = 'PAUSE'"

async function ledgerOf({ admin }: TenantStory) {
  return admin.db.usageRecord.findMany({ orderBy: [{ createdAt: 'asc' }, { turn: 'asc' }] })
}

function tokensOf(rows: readonly { inputTokens: number; outputTokens: number }[]): number {
  return rows.reduce((sum, { inputTokens, outputTokens }) => sum + inputTokens + outputTokens, 0)
}

async function raise({ tenant }: TenantStory, max: bigint): Promise<void> {
  const input = { tenantId: tenant.id, limit: 'MONTHLY_TOKENS' as const, max, reason: 'They asked for more.' }
  await setQuotaOverride(await signInOperator(story), input)
}

/** Until the run is told to have paused. */
async function followToPause(tenant: TenantStory, runId: string) {
  await until(async () => (await findRun(tenant.member, runId))?.status === 'PAUSED_BUDGET')
  const { status, resumeAt } = (await findRun(tenant.member, runId)) ?? {}
  return { status, resumeAt }
}

describe('a budget that ends in the middle of an answer', () => {
  it('ends it with what was said, which is all that it pays for, and the call with it', async () => {
    const tenant = await tenantWith(700)
    const script = saysOn(5_000)
    await using _ = await startWorker(story, { model: scriptedModel([script]) })
    const { run } = await ask(tenant.member)
    const events = await follow(tenant.member, run.id)
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted', finishReason: 'BUDGET', usage: { estimated: true } })
    const reply = (await messagesByRun(tenant.member, [run.id])).get(run.id)?.reply
    expect(shownAfter(events)).toBe(reply?.content)
    const ledger = await ledgerOf(tenant)
    expect(tokensOf(ledger)).toBe(700)
    expect(reply?.content).toBe(words(ledger[0]?.outputTokens ?? 0).join(''))
    expect(script.wasClosed).toBe(true)
    await expect(ask(tenant.member)).rejects.toThrow(BudgetExhausted)
  })

  it('ends a tool call that is being written, which is not made', async () => {
    const tenant = await tenantWith(700)
    const script: ModelScript = async function* () {
      for (const text of words(5_000)) yield { type: 'toolText', text }
      yield { type: 'toolCall', call: { id: 'a', name: 'shout', arguments: words(5_000).join('') } }
      yield { type: 'finish', reason: 'TOOL_CALLS' }
    }
    await using _ = await startWorker(story, { model: scriptedModel([script]) })
    const { run } = await ask(tenant.member)
    const events = await follow(tenant.member, run.id)
    expect(events).toMatchObject([{ type: 'RunCompleted', finishReason: 'BUDGET', usage: { estimated: true } }])
    expect(tokensOf(await ledgerOf(tenant))).toBe(700)
  })

  it('is told to the model, which then ends by itself', async () => {
    const tenant = await tenantWith(700)
    const model = scriptedModel([saysAsAsked])
    await using _ = await startWorker(story, { model })
    const { run } = await ask(tenant.member)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ finishReason: 'BUDGET', usage: { estimated: false } })
    const [row] = await ledgerOf(tenant)
    expect(model.requests[0]?.maxOutputTokens).toBe(row?.outputTokens)
    expect(tokensOf(await ledgerOf(tenant))).toBeGreaterThan(650)
    expect(tokensOf(await ledgerOf(tenant))).toBeLessThanOrEqual(700)
  })

  it('leaves the bound on a message’s tokens to be a matter of length', async () => {
    const tenant = await tenantWith(100_000)
    await limitTo(story.database, tenant.tenant.id, { TOKENS_PER_MESSAGE: 90 })
    const model = scriptedModel([saysAsAsked])
    await using _ = await startWorker(story, { model })
    const { run } = await ask(tenant.member)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ finishReason: 'LENGTH' })
    expect(model.requests[0]?.maxOutputTokens).toBe(90)
  })

  it('before it began: it ends without a word and without a call', async () => {
    const tenant = await tenantWith(700)
    const { run } = await ask(tenant.member)
    await raise(tenant, 10n)
    const model = scriptedModel([says('Never.')])
    await using _ = await startWorker(story, { model })
    await story.ports.runQueue.wake(tenant.tenant.id)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted', finishReason: 'BUDGET' })
    expect((await messagesByRun(tenant.member, [run.id])).get(run.id)?.reply?.content).toBe('')
    expect(model.requests).toEqual([])
    expect(await tenant.admin.db.modelCallAttempt.findMany()).toEqual([])
  })

  it('frees the session when the answer ends', async () => {
    const tenant = await tenantWith(100_000)
    await limitTo(story.database, tenant.tenant.id, { CONCURRENT_SESSIONS: 1 })
    await using _ = await startWorker(story, { model: scriptedModel([says('Yes.')]) })
    for (let message = 0; message < 3; message++) {
      const { run } = await ask(tenant.member)
      expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    }
  })
})

describe('a run that waits for budget', () => {
  it('keeps what was said, goes on when it is resumed, and asks for nothing twice', async () => {
    const tenant = await tenantWith(700, pausing)
    const model = scriptedModel([saysOn(5_000), says(' end.', usage(600, 2))])
    await using _ = await startWorker(story, { model })
    const { run } = await ask(tenant.member)
    const following = follow(tenant.member, run.id)
    const paused = await followToPause(tenant, run.id)
    expect(paused.resumeAt?.getTime()).toBeGreaterThan(Date.now())
    expect(tokensOf(await ledgerOf(tenant))).toBe(700)

    await expect(resumeRun(tenant.member, { runId: run.id })).rejects.toThrow(BudgetExhausted)
    await raise(tenant, 100_000n)
    const resumed = await resumeRun(tenant.member, { runId: run.id })
    expect(resumed.run).toMatchObject({ id: run.id, resumeAt: null })
    const events = await following
    const said = words((await ledgerOf(tenant))[0]?.outputTokens ?? 0).join('')
    expect(shownAfter(events)).toBe(`${said} end.`)
    const told = events.map(({ type }) => type).filter((type) => /^Run/.test(type))
    expect(told).toEqual(['RunPaused', 'RunResumed', 'RunCompleted'])
    expect(events.find(({ type }) => type === 'RunPaused')).toMatchObject({
      status: 'PAUSED_BUDGET',
      resumeAt: paused.resumeAt?.toISOString(),
    })
    expect(model.requests).toHaveLength(2)
    expect(model.requests[1]?.messages.at(-1)).toMatchObject({ role: 'assistant', content: said })
    expect(await ledgerOf(tenant)).toMatchObject([{ turn: 0 }, { turn: 1, outputTokens: 2 }])
    const reply = (await messagesByRun(tenant.member, [run.id])).get(run.id)?.reply
    expect(reply?.content).toBe(`${said} end.`)
    // It has ended.
    await expect(resumeRun(tenant.member, { runId: run.id })).rejects.toThrow(Conflict)
  })

  it.each([
    { says: 'PAUSE', tenant: "budget_behaviour = 'END'", status: 'PAUSED_BUDGET' },
    { says: 'END', tenant: pausing, status: 'COMPLETED' },
    { says: null, tenant: pausing, status: 'PAUSED_BUDGET' },
  ] as const)(
    'waits when its agent says $says and $tenant: $status',
    async ({ says: budgetBehaviour, tenant: settings, status }) => {
      const tenant = await tenantWith(700, settings)
      await updateAgentConfig(tenant.admin, { budgetBehaviour })
      await using _ = await startWorker(story, { model: scriptedModel([saysOn(5_000)]) })
      const { run } = await ask(tenant.member)
      await until(async () => !['QUEUED', 'RUNNING'].includes((await findRun(tenant.member, run.id))?.status ?? ''))
      expect((await findRun(tenant.member, run.id))?.status).toBe(status)
    },
  )

  it('is told of to those who come late, also when its events are gone, and to no one twice', async () => {
    const tenant = await tenantWith(700, pausing)
    await using _ = await startWorker(story, { model: scriptedModel([saysOn(5_000), says(' end.')]) })
    const { run } = await ask(tenant.member)
    await followToPause(tenant, run.id)
    const said = words((await ledgerOf(tenant))[0]?.outputTokens ?? 0).join('')
    const eventLog = new MemoryEventLog({ onError: () => undefined })
    const forgotten = { ...tenant.member, ports: { ...tenant.member.ports, eventLog } }
    // Both ask again after each 20 ms of silence.
    const [late, later] = [follow(tenant.member, run.id, null, 20), follow(forgotten, run.id, null, 20)]
    await new Promise((resolve) => setTimeout(resolve, 300))
    await cancelRun(tenant.member, { runId: run.id })
    const [fromLog, fromRun] = [await late, await later]
    for (const events of [fromLog, fromRun]) {
      expect(shownAfter(events)).toBe(said)
      expect(events.filter(({ type }) => type === 'RunPaused')).toHaveLength(1)
      expect(events.at(-1)).toMatchObject({ type: 'RunCancelled', text: said })
    }
    expect(fromRun.map(({ type }) => type)).toEqual(['Snapshot', 'RunPaused', 'Snapshot', 'RunCancelled'])
    // A cursor that was handed out while it waited.
    expect((await follow(tenant.member, run.id, fromRun[1]?.cursor)).at(-1)).toMatchObject({ type: 'RunCancelled' })
  })

  it('has no session: its tenant may use that for another message', async () => {
    const tenant = await tenantWith(700, pausing)
    await limitTo(story.database, tenant.tenant.id, { CONCURRENT_SESSIONS: 1 })
    await using _ = await startWorker(story, { model: scriptedModel([saysOn(5_000), says('Other.', usage(20, 2))]) })
    const { run } = await ask(tenant.member)
    await followToPause(tenant, run.id)
    await raise(tenant, 100_000n)
    const other = await ask(tenant.member)
    expect((await follow(tenant.member, other.run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(await findRun(tenant.member, run.id)).toMatchObject({ status: 'PAUSED_BUDGET', workerId: null })
  })

  it('goes on at once when it was asked for by a clock that is ahead of the database’s', async () => {
    const tenant = await tenantWith(700, pausing)
    const anHourAhead = { ...tenant.member, ports: { ...tenant.member.ports, now: () => Date.now() + 3_600_000 } }
    await using _ = await startWorker(story, { model: scriptedModel([saysOn(5_000), says(' end.')]) })
    const { run } = await ask(anHourAhead)
    await followToPause(tenant, run.id)
    await raise(tenant, 100_000n)
    await resumeRun(tenant.member, { runId: run.id })
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted', finishReason: 'STOP' })
  })

  it('is resumed by members of its tenant alone', async () => {
    const tenant = await tenantWith(700, pausing)
    const other = await story.tenant()
    await using _ = await startWorker(story, { model: scriptedModel([saysOn(5_000), says(' end.')]) })
    const { run } = await ask(tenant.member)
    await followToPause(tenant, run.id)
    await expect(resumeRun(other.admin, { runId: run.id })).rejects.toThrow(NotFound)
    await expect(resumeRun(tenant.endUser, { runId: run.id })).rejects.toThrow('Your role does not allow this.')
    await clearQuotaOverride(await signInOperator(story), {
      tenantId: tenant.tenant.id,
      limit: 'MONTHLY_TOKENS',
      reason: 'Enough.',
    })
    const [one, another] = await Promise.all([
      resumeRun(tenant.member, { runId: run.id }),
      resumeRun(tenant.admin, { runId: run.id }),
    ])
    expect([one.run.id, another.run.id]).toEqual([run.id, run.id])
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
  })
})

describe('a run that finds no session', () => {
  it('goes back into the queue as often as it takes, and is answered then', async () => {
    const tenant = await tenantWith(100_000)
    const { run } = await ask(tenant.member)
    // Its session ran out, and another has taken the only one.
    await story.ports.admission.settle(tenant.tenant.id, { runId: run.id, calls: [], leave: 1 })
    await limitTo(story.database, tenant.tenant.id, { CONCURRENT_SESSIONS: 1 })
    const member = await story.signIn(tenant.keys.member)
    const holder = { runId: run.conversationId, key: null, contentTokens: 1, reserve: 1 }
    const { admission } = story.ports
    const admitted = await seeded(member, (version) => admission.admit(tenant.tenant.id, { version, ...holder }))
    expect(admitted.outcome).toBe('admitted')
    const timing = { sweep: 50, overdueAfter: 0 }
    const model = scriptedModel([says('At last.')])
    await using _ = await startWorker(story, { model, timing })
    await until(async () => ((await findRun(member, run.id))?.excusedClaims ?? 0) >= 1)
    expect(model.requests).toEqual([])
    await story.ports.admission.settle(tenant.tenant.id, { runId: run.conversationId, calls: [], leave: 1 })
    expect(shownAfter(await follow(member, run.id))).toBe('At last.')
    expect(await tenant.admin.db.modelCallAttempt.findMany()).toEqual([])
  })
})

describe('a month whose tokens are nearly spent', () => {
  it('is answered by the cheaper model from then on, at its price, and the run says so', async () => {
    const tenant = await tenantWith(2_000, "downgrade_model = 'gpt-4.1-nano', downgrade_at = 50")
    const model = scriptedModel([says('Dear.', usage(990, 10)), says('Cheap.', usage(100, 2))])
    await using _ = await startWorker(story, { model })
    for (const answer of ['Dear.', 'Cheap.']) {
      const { run } = await ask(tenant.member)
      expect(shownAfter(await follow(tenant.member, run.id))).toBe(answer)
    }
    expect(model.requests.map((request) => request.model)).toEqual(['gpt-4o-mini', 'gpt-4.1-nano'])
    const runs = await tenant.admin.db.run.findMany({ orderBy: { createdAt: 'asc' } })
    expect(runs).toMatchObject([
      { model: 'gpt-4o-mini', downgradedFrom: null },
      { model: 'gpt-4.1-nano', downgradedFrom: 'gpt-4o-mini' },
    ])
    // 100 and 400 nano-USD per token.
    expect((await ledgerOf(tenant))[1]).toMatchObject({ model: 'gpt-4.1-nano', costNanos: 10_800n })
  })
})
