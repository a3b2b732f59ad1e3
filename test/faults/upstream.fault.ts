import { setTimeout as delay } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { breaksOffAfter, endsEarlyAfter, fails, neverAnswers, sendsGarbage, stallsAfter } from '../support/fake-upstream.ts'
import { startHoldingProxy } from '../support/holding-proxy.ts'
import { longest, rounds } from '../support/kills.ts'
import { free, saysPart } from './provider.ts'
import { openStage } from './stage.ts'
import { tried } from './tried.ts'
import { type Question, Witness } from './witness.ts'

/** How long the provider may be silent, in milliseconds. */
const silence = { OPENAI_FIRST_TOKEN_TIMEOUT: '2000', OPENAI_IDLE_TIMEOUT: '2000' }

const limited = free(fails(429, { 'retry-after': '1' }))
const failing = free(fails(503))

/** What goes wrong, and what a run comes to. What went wrong before the first word is tried three times. */
const faults: [string, Question][] = [
  ['429 with Retry-After: 1, then an answer', { scripts: [limited] }],
  ['429 with Retry-After: 3600', { scripts: [free(fails(429, { 'retry-after': '3600' }))], ends: 'FAILED' }],
  ['500 and 503, then an answer', { scripts: [free(fails(500)), failing] }],
  ['503, three times', { scripts: [failing, failing, failing], ends: 'FAILED' }],
  ['no headers, then an answer', { scripts: [free(neverAnswers())] }],
  ['a stall after the headers, then an answer', { scripts: [free(stallsAfter())] }],
  ['a stall in mid-answer', { scripts: [saysPart(0.5)], ends: 'FAILED' }],
  ['a reset in mid-answer', { scripts: [breaksOffAfter('Half an')], ends: 'FAILED' }],
  ['an answer without an end', { scripts: [endsEarlyAfter('Half an')], ends: 'FAILED' }],
  ['garbage, then an answer', { scripts: [free(sendsGarbage())] }],
]

it('whatever the provider does, each run ends, and what it cost is known', { timeout: longest }, async ({ task }) => {
  await using stage = await openStage({ env: silence })
  await using calm = new Witness(stage)
  await calm.stream(4)
  calm.startProbing()
  const times = 5 * rounds
  const witnesses = faults.map(([fault, asked]) => ({ fault, asked, witness: new Witness(stage) }))
  await Promise.all(
    witnesses.map(({ asked, witness }) =>
      witness.askAll(times, () => ({ ...asked, scripts: [...(asked.scripts ?? [])], words: 8 })),
    ),
  )
  for (const { fault, witness } of witnesses) {
    const verdict = await witness.judge()
    await witness[Symbol.asyncDispose]()
    tried(task, `upstream: ${fault}`, times, { ...verdict, slowestAnswer: calm.slowestAnswer })
    expect(verdict.findings, fault).toEqual([])
  }
  const { findings, slowestAnswer } = await calm.judge()
  expect(findings).toEqual([])
  expect(slowestAnswer).toBeLessThan(calm.allow(3_000))
})

it('a provider that vanishes behind its connections ends the runs that wait for it', { timeout: longest }, async ({ task }) => {
  await using stage = await openStage({ workers: 0, env: silence })
  const proxy = await startHoldingProxy(stage.provider.url)
  try {
    await stage.startWorker({ OPENAI_BASE_URL: proxy.url })
    await using witness = new Witness(stage)
    await witness.stream(10, () => ({ words: 3_000, delayMs: 100, ends: 'FAILED' }))
    const times = proxy.loseAll()
    await delay(100)
    await witness.askAll(5)
    const verdict = await witness.judge()
    tried(task, 'upstream: connections lost in mid-answer without a word', times, verdict)
    expect(verdict.findings).toEqual([])
  } finally {
    await proxy.close()
  }
})
