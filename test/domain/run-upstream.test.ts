import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent } from '../../src/domain/agent-reply.ts'
import { messagesByRun } from '../../src/domain/message.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import {
  endsEarlyAfter,
  type FakeUpstream,
  fails,
  neverAnswers,
  says,
  saysByteByByte,
  sendsGarbage,
  stallsAfter,
  startFakeUpstream,
  type UpstreamAnswer,
  type UpstreamScript,
} from '../support/fake-upstream.ts'
import { ask, follow, shownAfter, startWorker, type TestWorker, until } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let upstream: FakeUpstream
let story: Story
let acme: TenantStory
let work: TestWorker

/** Resolved when a follower has the first text: what an upstream sends right before it hangs up may be lost with it. */
let heard = Promise.withResolvers<void>()

const breaksOff: UpstreamScript = async (answer) => {
  answer.delta({ content: 'Once upon' })
  await heard.promise
  answer.destroy()
}

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
})

beforeEach(async () => {
  upstream = await startFakeUpstream()
  // Short, as some wait for it; not so short that a busy machine's upstream is asked twice.
  const limits = { idleMs: 500, firstTokenMs: 500 }
  const model = createOpenAiModel({ baseUrl: upstream.url, apiKey: 'test', limits })
  work = await startWorker(story, { model })
})

afterEach(async () => {
  await work[Symbol.asyncDispose]()
  await upstream.close()
})

afterAll(() => story.close())

async function stored(runId: string) {
  const run = await findRun(acme.member, runId)
  const reply = (await messagesByRun(acme.member, [runId])).get(runId)?.reply ?? null
  return { run, reply, records: await acme.member.db.usageRecord.findMany({ where: { runId } }) }
}

describe('a real upstream', () => {
  it('is told nothing twice, however many follow', async () => {
    upstream.next(says('One answer for everybody who asks.', { delayMs: 15 }))
    const { run } = await ask(acme.member)
    const streams = await Promise.all([1, 2, 3].map(() => follow(acme.member, run.id)))
    const late = await follow(acme.member, run.id)
    for (const events of [...streams, late]) expect(shownAfter(events)).toBe('One answer for everybody who asks.')
    expect(upstream.requests).toHaveLength(1)
  })

  it('may cut characters anywhere', async () => {
    upstream.next(saysByteByByte('Grüß dich 👋 語'))
    const { run } = await ask(acme.member)
    expect(shownAfter(await follow(acme.member, run.id))).toBe('Grüß dich 👋 語')
    expect((await stored(run.id)).reply?.content).toBe('Grüß dich 👋 語')
  })

  it.each([
    ['refuses', fails(401), 'MODEL_REFUSED', 1],
    ['rejects the request', fails(400), 'MODEL_BAD_REQUEST', 1],
    ['fails, thrice', fails(500, { 'retry-after-ms': '1' }), 'MODEL_UNAVAILABLE', 3],
    ['asks to wait for too long', fails(429, { 'retry-after': '3600' }), 'MODEL_RATE_LIMITED', 1],
    ['sends garbage', sendsGarbage(), 'MODEL_BROKEN_STREAM', 3],
    ['never answers', neverAnswers(), 'MODEL_TIMED_OUT', 3],
  ])('that %s before the first token ends in a typed failure that costs nothing', async (_what, script, code, calls) => {
    upstream.otherwise(script)
    const { run } = await ask(acme.member)
    expect(await follow(acme.member, run.id)).toMatchObject([{ type: 'RunFailed', failure: { code } }])
    expect(upstream.requests).toHaveLength(calls)
    expect(await stored(run.id)).toMatchObject({ run: { status: 'FAILED', failureCode: code }, reply: null, records: [] })
  })

  it.each([
    ['stalls', stallsAfter('Once upon'), 'MODEL_TIMED_OUT'],
    ['breaks off', breaksOff, 'MODEL_BROKEN_STREAM'],
    ['ends early', endsEarlyAfter('Once upon'), 'MODEL_BROKEN_STREAM'],
  ])('that %s half-way ends in a typed failure, with what it said paid for', async (_what, script, code) => {
    upstream.otherwise(script)
    heard = Promise.withResolvers()
    const { run } = await ask(acme.member)
    const events: ReplyEvent[] = []
    for await (const event of followRun(acme.member, run.id, null, AbortSignal.timeout(10_000))) {
      heard.resolve()
      events.push(event)
    }
    expect(events.map(({ type }) => type)).toEqual(['TextDelta', 'RunFailed'])
    expect(events.at(-1)).toMatchObject({ failure: { code }, usage: { outputTokens: 2, estimated: true } })
    expect(upstream.requests).toHaveLength(1)
    expect(await stored(run.id)).toMatchObject({
      run: { status: 'FAILED', failureCode: code },
      reply: null,
      records: [{ outputTokens: 2, estimated: true }],
    })
  })

  const reports = (answer: UpstreamAnswer, content: string, output: number) =>
    answer.event({
      choices: [{ index: 0, delta: { content }, finish_reason: null }],
      usage: { prompt_tokens: 70, completion_tokens: output },
    })

  it.each<[string, UpstreamScript, object]>([
    [
      'in the call of a tool',
      (answer) => {
        answer.delta({ tool_calls: [{ index: 0, id: 'a', function: { name: 'search', arguments: '{"for' } }] })
        answer.end()
      },
      // search, {", and for
      { outputTokens: 3, estimated: true },
    ],
    [
      'right after it said what it used so far',
      (answer) => {
        reports(answer, 'Once', 40)
        reports(answer, ' upon', 80)
        answer.end()
      },
      { inputTokens: 70, outputTokens: 80, estimated: false },
    ],
    [
      'some time after it said what it used so far',
      (answer) => {
        reports(answer, 'Once', 40)
        answer.delta({ content: ' upon' })
        answer.end()
      },
      { outputTokens: 2, estimated: true },
    ],
    [
      'and says all the time that it used nothing',
      (answer) => {
        reports(answer, 'Once', 0)
        reports(answer, ' upon', 0)
        answer.end()
      },
      { outputTokens: 2, estimated: true },
    ],
  ])('that breaks off %s has that paid for, once', async (_when, script, record) => {
    upstream.otherwise(script)
    const { run } = await ask(acme.member)
    expect((await follow(acme.member, run.id)).at(-1)).toMatchObject({ type: 'RunFailed' })
    expect(upstream.requests).toHaveLength(1)
    expect((await stored(run.id)).records).toMatchObject([record])
  })

  it('that says it used nothing, and breaks off before the first token, is asked again', async () => {
    upstream.next((answer) => {
      reports(answer, '', 0)
      answer.end()
    }, says('Now.'))
    const { run } = await ask(acme.member)
    expect(shownAfter(await follow(acme.member, run.id))).toBe('Now.')
    expect((await stored(run.id)).records).toHaveLength(1)
  })

  it('is asked again when it was only busy', async () => {
    upstream.next(fails(429, { 'retry-after-ms': '20' }), says('Now.'))
    const { run } = await ask(acme.member)
    expect(shownAfter(await follow(acme.member, run.id))).toBe('Now.')
    expect((await stored(run.id)).records).toHaveLength(1)
  })
})

describe('cancelling', () => {
  it('hangs up on the upstream, keeps what was said, and enters what it used', async () => {
    upstream.next(says('never ending story '.repeat(500), { delayMs: 5 }))
    const { run } = await ask(acme.member)
    const following = follow(acme.member, run.id)
    const request = await upstream.received(1)
    await until(
      async () =>
        shownAfter(
          (await story.ports.eventLog.read({ tenantId: acme.tenant.id, runId: run.id }, null)).events.map(({ event }) => ({
            ...event,
            cursor: '',
          })),
        ).length > 30,
    )
    await cancelRun(acme.member, { runId: run.id })
    await request.closed
    expect(request.aborted).toBe(true)

    const events = await following
    const shown = shownAfter(events)
    expect(shown.length).toBeGreaterThan(30)
    expect(events.at(-1)).toMatchObject({ type: 'RunCancelled', text: shown, usage: { estimated: true } })
    const { run: after, reply, records } = await stored(run.id)
    expect(after).toMatchObject({ status: 'CANCELLED', finishReason: null })
    expect(reply?.content).toBe(shown)
    expect(records).toMatchObject([{ estimated: true, outputTokens: reply?.tokensUsed }])
    expect(records[0]?.inputTokens).toBeGreaterThan(5)

    expect((await cancelRun(acme.member, { runId: run.id })).run).toEqual(after)
  })

  it('when all was said and reported is paid for as reported', async () => {
    upstream.next((answer) => {
      answer.delta({ content: 'Hello.' }, 'stop')
      answer.event({ choices: [], usage: { prompt_tokens: 70, completion_tokens: 80 } })
      return answer.request.closed
    })
    const { run } = await ask(acme.member)
    const events: ReplyEvent[] = []
    for await (const event of followRun(acme.member, run.id, null, AbortSignal.timeout(10_000))) {
      if (events.push(event) === 1) await cancelRun(acme.member, { runId: run.id })
    }
    expect(events.map(({ type }) => type)).toEqual(['TextDelta', 'RunCancelled'])
    expect((await stored(run.id)).records).toMatchObject([{ inputTokens: 70, outputTokens: 80, estimated: false }])
  })

  it('works before the first token, too', async () => {
    upstream.next(neverAnswers())
    const { run } = await ask(acme.member)
    const request = await upstream.received(1)
    await cancelRun(acme.member, { runId: run.id })
    // Who comes between the end and its event is told of it with a Snapshot.
    expect((await follow(acme.member, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled', text: '' })
    await request.closed
    expect(await stored(run.id)).toMatchObject({ run: { status: 'CANCELLED' }, reply: null, records: [{ outputTokens: 0 }] })
  })
})
