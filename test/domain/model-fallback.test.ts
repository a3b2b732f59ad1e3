import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { messagesByRun } from '../../src/domain/message.ts'
import { seeded } from '../../src/domain/quota-terms.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import {
  breaksOffAfter,
  callsTool,
  type FakeUpstream,
  fails,
  neverAnswers,
  says,
  sendsGarbage,
  startFakeUpstream,
  type UpstreamScript,
} from '../support/fake-upstream.ts'
import { limitTo } from '../support/overspend.ts'
import { ask, follow, shownAfter, startWorker, type TestWorker } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

let upstream: FakeUpstream
let story: Story
let work: TestWorker

beforeAll(async () => {
  story = await startStory({ ceiling: false })
})

beforeEach(async () => {
  upstream = await startFakeUpstream()
  const model = createOpenAiModel({ baseUrl: upstream.url, apiKey: 'test', limits: { idleMs: 500, firstTokenMs: 500 } })
  // One call of each model at a time: whoever kept the slot of a model that failed would be found out.
  const modelSlots = new MemoryModelSlots({ named: new Map([['gpt-4o', 1]]), others: 1 })
  work = await startWorker(story, { model, ports: { ...story.ports, modelSlots } })
})

afterEach(async () => {
  await work[Symbol.asyncDispose]()
  await upstream.close()
})

afterAll(() => story.close())

const [own, second, third] = ['gpt-4o', 'gpt-4o-mini', 'gpt-4.1-nano'] as const

/** Nano-USD per token of input and of output. */
const prices = { [own]: [2_500, 10_000], [second]: [150, 600], [third]: [100, 400] } as const

/** A tenant whose agent turns to these models, and columns that are set to other values than a new tenant's. */
async function tenantThatTurnsTo(fallbackModels: string[], settings = ''): Promise<TenantStory> {
  const tenant = await story.tenant({ agent: { model: own } })
  const { id } = tenant.tenant
  await asAdmin(story.database, async (admin) => {
    await admin.query(
      "update agent_configs set fallback_models = $2, max_output_tokens = 500, enabled_tools = '{current_time}' where tenant_id = $1",
      [id, fallbackModels],
    )
    if (settings) await admin.query(`update tenants set ${settings} where id = $1`, [id])
  })
  return tenant
}

function script(model: string, ...scripts: UpstreamScript[]): void {
  let calls = 0
  upstream.when(
    ({ body }) => body.model === model,
    (answer) => scripts[Math.min(calls++, scripts.length - 1)]?.(answer),
  )
}

const asked = () => upstream.requests.map(({ body }) => body.model)

/** All that is left of a run; the counters have to agree with the ledger, and nothing may be held or noted any more. */
async function stored({ member, admin }: TenantStory, runId: string) {
  const run = await findRun(member, runId)
  const reply = (await messagesByRun(member, [runId])).get(runId)?.reply ?? null
  const records = await admin.db.usageRecord.findMany({ where: { runId }, orderBy: { turn: 'asc' } })
  expect(await admin.db.modelCallAttempt.findMany({ where: { runId } })).toEqual([])
  for (const record of records) {
    const [input, output] = prices[record.model as keyof typeof prices]
    expect(record.costNanos).toBe(BigInt(record.inputTokens * input + record.outputTokens * output))
  }
  const { quota } = await seeded(member, (version) => story.ports.admission.read(member.tenant.id, version))
  const all = await admin.db.usageRecord.findMany()
  expect(quota).toMatchObject({
    spent: all.reduce((sum, { inputTokens, outputTokens }) => sum + inputTokens + outputTokens, 0),
    reserved: 0,
    sessions: 0,
  })
  return { run, reply, records }
}

const busy = fails(429, { 'retry-after': '3600' })
const down = fails(500, { 'retry-after-ms': '1' })

describe('a model that fails before the first token', () => {
  it.each<[string, UpstreamScript, number]>([
    ['is busy for too long', busy, 1],
    ['is busy for longer than anybody should wait who need not', fails(429, { 'retry-after': '5' }), 1],
    ['fails, thrice', down, 3],
    ['does not exist', fails(404), 1],
    ['does not exist, in the words of others', fails(400, {}, { message: 'no', code: 'model_not_found' }), 1],
    ['refuses the key', fails(401), 1],
    ['sends garbage', sendsGarbage(), 3],
    ['never answers', neverAnswers(), 1],
  ])('and %s gives way to the next, which is charged at its own price', async (_what, failure, calls) => {
    script(own, failure)
    script(second, says('I stand in.'))
    const tenant = await tenantThatTurnsTo([second, third])
    const { run } = await ask(tenant.member)
    const events = await follow(tenant.member, run.id)
    expect(shownAfter(events)).toBe('I stand in.')
    expect(asked()).toEqual([...Array(calls).fill(own), second])
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted', usage: { inputTokens: 10, outputTokens: 3 } })
    expect(await stored(tenant, run.id)).toMatchObject({
      run: { model: second, downgradedFrom: null, status: 'COMPLETED' },
      reply: { content: 'I stand in.' },
      records: [{ model: second, turn: 0, call: 0, attempt: 1, costNanos: 3_300n }],
    })
  })

  it('gives way to nobody when it rejects the request', async () => {
    script(own, fails(400))
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    expect(await follow(tenant.member, run.id)).toMatchObject([{ failure: { code: 'MODEL_BAD_REQUEST' } }])
    expect(asked()).toEqual([own])
    expect(await stored(tenant, run.id)).toMatchObject({ run: { model: own, status: 'FAILED' }, records: [] })
  })

  it('gives way to the one after, when that which stands in rejects the request', async () => {
    script(own, busy)
    script(second, fails(400))
    script(third, says('At last.'))
    const tenant = await tenantThatTurnsTo([second, third])
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('At last.')
    expect(asked()).toEqual([own, second, third])
    expect((await stored(tenant, run.id)).records).toMatchObject([{ model: third }])
  })

  it('is not left for another in its retries, when they work', async () => {
    script(own, fails(429, { 'retry-after-ms': '20' }), says('Now.'))
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('Now.')
    expect(asked()).toEqual([own, own])
    expect((await stored(tenant, run.id)).records).toMatchObject([{ model: own }])
  })

  it('is what the run fails with when all fail, and nothing is charged', async () => {
    script(own, busy)
    script(second, fails(404))
    script(third, down)
    const tenant = await tenantThatTurnsTo([second, third])
    const { run } = await ask(tenant.member)
    expect(await follow(tenant.member, run.id)).toMatchObject([
      {
        type: 'RunFailed',
        failure: { code: 'MODEL_RATE_LIMITED', message: expect.stringContaining('The models to turn to failed, too.') },
      },
    ])
    expect(asked()).toEqual([own, second, third, third, third])
    expect(await stored(tenant, run.id)).toMatchObject({ run: { status: 'FAILED', model: third }, reply: null, records: [] })
  })

  it('gives way to none without a price, nor to one whose context is too small', async () => {
    script(own, busy)
    script(third, says('At last.'))
    // Nobody knows the window of the second, so it is taken for the smallest; it has a price all the same.
    const tenant = await tenantThatTurnsTo(['unpriced-model', 'gpt-3.5-turbo', third])
    await asAdmin(story.database, (admin) =>
      admin.query('update agent_configs set max_output_tokens = 8200 where tenant_id = $1', [tenant.tenant.id]),
    )
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('At last.')
    expect(asked()).toEqual([own, third])
    expect((await stored(tenant, run.id)).records).toMatchObject([{ model: third }])
  })

  it('may be asked for without a price: then the next answers', async () => {
    script(second, says('Priced.'))
    const tenant = await tenantThatTurnsTo([second])
    await asAdmin(story.database, (admin) =>
      admin.query("update agent_configs set model = 'unpriced-model' where tenant_id = $1", [tenant.tenant.id]),
    )
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('Priced.')
    expect(await stored(tenant, run.id)).toMatchObject({ run: { model: second }, records: [{ model: second, call: 0 }] })
  })

  it('can be cancelled, and so can the one that stands in', async () => {
    script(own, busy)
    script(second, neverAnswers())
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    await upstream.received(2)
    await cancelRun(tenant.member, { runId: run.id })
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled' })
    const { run: after, records } = await stored(tenant, run.id)
    expect(after).toMatchObject({ status: 'CANCELLED', model: second })
    expect(records).toMatchObject([{ model: second, outputTokens: 0, estimated: true }])
  })
})

describe('a model that fails after the first token', () => {
  it.each<[string, UpstreamScript]>([
    ['breaks off', breaksOffAfter('Once upon')],
    ['refuses', says('I had rather not.', { finishReason: 'content_filter' })],
    ['comes to its bound', says('I could go on', { finishReason: 'length' })],
  ])('and %s gives way to nobody', async (what, ending) => {
    script(own, ending)
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    await follow(tenant.member, run.id)
    expect(asked()).toEqual([own])
    const { run: after, records } = await stored(tenant, run.id)
    expect(after).toMatchObject(
      {
        'breaks off': { status: 'FAILED', failureCode: 'MODEL_BROKEN_STREAM', finishReason: null },
        refuses: { status: 'COMPLETED', failureCode: null, finishReason: 'REFUSAL' },
        'comes to its bound': { status: 'COMPLETED', failureCode: null, finishReason: 'LENGTH' },
      }[what] ?? {},
    )
    expect(records).toMatchObject([{ model: own }])
  })

  it('gives way to nobody even if it only thought, which costs', async () => {
    script(own, (answer) => {
      answer.event({ choices: [], usage: { prompt_tokens: 70, completion_tokens: 80 } })
      answer.end()
    })
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    expect((await follow(tenant.member, run.id)).at(-1)).toMatchObject({ failure: { code: 'MODEL_BROKEN_STREAM' } })
    expect(asked()).toEqual([own])
    expect((await stored(tenant, run.id)).records).toMatchObject([{ model: own, inputTokens: 70, outputTokens: 80 }])
  })
})

describe('the turns of one run', () => {
  it('begin with the model that answered last, go round again, and are each charged at the price of theirs', async () => {
    const callsTime = callsTool('current_time', {})
    script(own, busy, says('Back again.'))
    script(second, callsTime, busy)
    script(third, callsTime, busy)
    const tenant = await tenantThatTurnsTo([second, third])
    const { run } = await ask(tenant.member)
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('Back again.')
    expect(asked()).toEqual([own, second, second, third, third, own])
    expect(await stored(tenant, run.id)).toMatchObject({
      run: { model: own, status: 'COMPLETED' },
      records: [
        { turn: 0, model: second, attempt: 1 },
        { turn: 1, model: third, attempt: 1 },
        { turn: 2, model: own, attempt: 1 },
      ],
    })
  })

  it('begin with it also when another worker goes on', async () => {
    script(own, busy)
    script(second, neverAnswers(), says('From the second.'))
    const tenant = await tenantThatTurnsTo([second])
    const { run } = await ask(tenant.member)
    await upstream.received(2)
    await work[Symbol.asyncDispose]()
    const model = createOpenAiModel({ baseUrl: upstream.url, apiKey: 'test' })
    work = await startWorker(story, { model })
    expect(shownAfter(await follow(tenant.member, run.id))).toBe('From the second.')
    expect(asked()).toEqual([own, second, second])
    expect((await stored(tenant, run.id)).records).toMatchObject([
      { model: second, attempt: 1, estimated: true, outputTokens: 0 },
      { model: second, attempt: 2, estimated: false },
    ])
  })
})

describe('a run that was given a cheaper model', () => {
  it('turns to none that is dearer, not even to the own one of its agent', async () => {
    script(second, busy)
    script(third, says('Cheaper still.'))
    const tenant = await tenantThatTurnsTo([own, third], `downgrade_model = '${second}', downgrade_at = 50`)
    await limitTo(story.database, tenant.tenant.id, { MONTHLY_TOKENS: 2_000 })
    const member = await story.signIn(tenant.keys.member)
    script(own, says('Dear.', { usage: { input: 990, output: 10 } }))
    for (const answer of ['Dear.', 'Cheaper still.']) {
      const { run } = await ask(member)
      expect(shownAfter(await follow(member, run.id))).toBe(answer)
    }
    expect(asked()).toEqual([own, second, third])
    const last = await member.db.run.findFirst({ orderBy: { createdAt: 'desc' } })
    expect(await stored({ ...tenant, member }, last?.id ?? '')).toMatchObject({ run: { model: third, downgradedFrom: own } })
  })
})

it('whichever models fail, and how often, one answers and is charged, or none', async () => {
  const failures = { busy, down, gone: fails(404) }
  const failing = fc.constantFrom<(keyof typeof failures)[]>('busy', 'down', 'gone')
  const fate = fc.option(failing, { nil: null, freq: 3 })
  const tenant = await tenantThatTurnsTo([second, third])
  await fc.assert(
    fc.asyncProperty(fc.tuple(fate, fate, fate), async (fates) => {
      const models = [own, second, third]
      for (const [index, model] of models.entries()) script(model, fates[index] ? failures[fates[index]] : says(`From ${model}.`))
      const { run } = await ask(tenant.member)
      await follow(tenant.member, run.id)
      const answering = models[fates.indexOf(null)]
      const { run: after, reply, records } = await stored(tenant, run.id)
      expect(after?.status).toBe(answering ? 'COMPLETED' : 'FAILED')
      expect(reply?.content).toBe(answering && `From ${answering}.`)
      expect(records.map(({ model }) => model)).toEqual(answering ? [answering] : [])
    }),
    { numRuns: 15 },
  )
})

it('an answer whose stand-in hides its reasoning has all that it may cost held, and no more', async () => {
  script(own, busy)
  const tenant = await tenantThatTurnsTo(['o4-mini'])
  const gate = Promise.withResolvers<void>()
  script('o4-mini', async (answer) => {
    await gate.promise
    await says('Thought through.')(answer)
  })
  const { run } = await ask(tenant.member)
  const following = follow(tenant.member, run.id)
  const request = await upstream.received(2)
  expect(request.body['max_completion_tokens']).toBe(500)
  const { quota } = await seeded(tenant.member, (version) => story.ports.admission.read(tenant.tenant.id, version))
  const [noted] = await tenant.admin.db.modelCallAttempt.findMany()
  expect(noted).toMatchObject({ model: 'o4-mini', outputBound: 500 })
  expect(quota.reserved).toBe((noted?.inputTokens ?? 0) + 500)
  gate.resolve()
  expect(shownAfter(await following)).toBe('Thought through.')
})
