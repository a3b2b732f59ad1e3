import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { encodeId, type NodeType } from '../../src/schema/global-id.ts'
import { says } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { sequenceCount, sequencesTakeAtMost } from '../support/sequences.ts'
import type { TenantStory } from '../support/story.ts'
import { Actor, echoOf, type Thing } from './actor.ts'
import { anyRounds, type Round, type Who } from './steps.ts'
import { tried } from './tried.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
  // Word by word, so that what others do comes in between.
  platform.upstream.otherwise((answer) => says(echoOf(answer.request.lastMessage), { delayMs: 1 })(answer))
})

afterAll(() => platform.stop())

it('three tenants and two end users of a fourth see their own alone, whatever they do at once', {
  tags: ['rule-12', 'rule-13', 'rule-18'],
  timeout: 60_000 + sequenceCount * 2_000,
}, async ({ task }) => {
  const latest = performance.now() + sequencesTakeAtMost
  let steps = 0
  let failed = false
  const property = fc.asyncProperty(anyRounds, async (sequence) => {
    // A sequence that fails is made shorter, however late it is.
    if (!failed && performance.now() > latest) return
    steps += sequence.flatMap(Object.values).length
    try {
      await act(sequence)
    } catch (error) {
      failed = true
      throw error
    }
  })
  const details = await fc.check(property, { numRuns: sequenceCount })
  tried(task, { cases: steps, leaks: details.failed ? 1 : 0 })
  // With the seed, and the shortest sequence that fails.
  if (details.failed) throw new Error(fc.defaultReportMessage(details), { cause: details.errorInstance })
})

/** Lets the cast take their steps, those of one round at once, and then look at all they have. */
async function act(sequence: Round[]): Promise<void> {
  const { actors, things } = await newCast()
  try {
    for (const round of sequence) {
      const known = [...things]
      const steps = actors.map(async ({ who, actor }) => (round[who] ? actor.take(round[who], known) : []))
      things.push(...(await Promise.all(steps)).flat())
    }
    await Promise.all(actors.map(({ actor }) => actor.list()))
  } finally {
    await Promise.all(actors.map(({ actor }) => actor.leave()))
  }
  expectPromptsApart()
}

/** The cast, in tenants that are new, and what these have from the beginning. */
async function newCast() {
  const stories = await Promise.all(Array.from({ length: 4 }, () => platform.story.tenant()))
  const [first, second, third, shared] = stories as [TenantStory, TenantStory, TenantStory, TenantStory]
  const uwe = await platform.story.endUser(shared.admin, 'uwe')
  const had = await Promise.all(stories.map(thingsOf))
  const enter = (who: Who, { tenant, keys }: TenantStory, key = keys.admin, userId: string | null = null) => {
    const own = had.flat().filter(({ owner }) => owner === tenant.name)
    return { who, actor: new Actor({ name: `${tenant.name}/${who}`, tenant: tenant.name, api: platform.api(key), userId, own }) }
  }
  return {
    actors: [
      enter('anna', first),
      enter('ben', second),
      enter('carla', third),
      enter('ursula', shared, shared.keys.endUser, 'ursula'),
      enter('uwe', shared, uwe.key, 'uwe'),
    ],
    things: had.flat(),
  }
}

async function thingsOf({ admin, tenant }: TenantStory): Promise<Thing[]> {
  const keys = await admin.db.apiKey.findMany({ orderBy: { id: 'asc' } })
  const thing = (type: NodeType, uuid: string) => ({ type, id: encodeId(type, uuid), owner: tenant.name })
  return [thing('Tenant', tenant.id), thing('Agent', tenant.defaultAgentId ?? ''), ...keys.map(({ id }) => thing('ApiKey', id))]
}

/** Expects that what the model was asked is each time of one tenant and one actor. */
function expectPromptsApart(): void {
  for (const { body } of platform.upstream.requests.splice(0)) {
    const text = JSON.stringify(body.messages)
    const tenants = new Set(text.match(/tenant-[0-9a-f]{12}/g))
    const speakers = new Set(text.match(/tenant-[0-9a-f]{12}\/\w+/g))
    expect([tenants.size, speakers.size], text).toEqual([1, 1])
  }
}
