import { afterAll, beforeAll, expect, test } from 'vitest'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { agentVersionStats } from '../../src/domain/agent-version-stats.ts'
import { Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { ModelError } from '../../src/domain/ports.ts'
import { ask, follow, startWorker } from '../support/run-story.ts'
import { failsAfter, says, scriptedModel, usage } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})
afterAll(() => story.close())

const hour = 3_600_000
const around = (now: number) => ({ from: new Date(now - hour), to: new Date(now + hour) })

test('compares the versions of an agent by errors and cost, newest first', async () => {
  const refused = new ModelError('MODEL_REFUSED', 'No.', { retryable: false })
  const model = scriptedModel([
    says('a', usage(1_000, 1)),
    says('b', usage(1_000, 1)),
    failsAfter([], refused),
    says('d', usage(500, 9)),
  ])
  const { admin, member } = await story.tenant()
  const other = await story.tenant()
  {
    await using _ = await startWorker(story, { model })
    const answer = async () => follow(member, (await ask(member)).run.id)
    await answer()
    await answer()
    await updateAgentConfig(admin, { maxTurns: 2 })
    await answer()
    await answer()
    await follow(other.member, (await ask(other.member)).run.id)
  }
  await ask(member)
  const range = around(story.ports.now())
  // gpt-4o-mini: 150 and 600 nano-USD per token.
  expect(await agentVersionStats(member, { range })).toEqual([
    {
      ...{ version: 2, runs: 3, endedRuns: 2, failedRuns: 1 },
      ...{ calls: expect.any(BigInt), inputTokens: expect.any(BigInt), outputTokens: 9n },
      ...{ costNanos: expect.any(BigInt), currency: 'USD' },
    },
    {
      ...{ version: 1, runs: 2, endedRuns: 2, failedRuns: 0, calls: 2n, inputTokens: 2_000n, outputTokens: 2n },
      ...{ costNanos: 301_200n, currency: 'USD' },
    },
  ])
  expect(await agentVersionStats(member, { range: around(story.ports.now() - 3 * hour) })).toEqual([])
})

test('is for members, of their own agents, over a span that is one', async () => {
  const [acme, globex] = [await story.tenant(), await story.tenant()]
  const range = around(story.ports.now())
  await expect(agentVersionStats(acme.endUser, { range })).rejects.toThrow(Forbidden)
  await expect(agentVersionStats(acme.member, { agentId: globex.tenant.defaultAgentId, range })).rejects.toThrow(NotFound)
  const backwards = { from: range.to, to: range.from }
  await expect(agentVersionStats(acme.member, { range: backwards })).rejects.toThrow(ValidationProblem)
})
