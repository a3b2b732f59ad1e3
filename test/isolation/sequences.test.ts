import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { says } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { sequenceCount } from '../support/sequences.ts'
import type { TenantStory } from '../support/story.ts'
import { Actor, echoOf, type Thing } from './actor.ts'
import { rounds, type Step } from './steps.ts'
import { tried } from './tried.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
  // Word by word, so that what others do comes in between.
  platform.upstream.otherwise((answer) => says(echoOf(answer.request.lastMessage), { delayMs: 1 })(answer))
})

afterAll(() => platform.stop())

const sequences = `${sequenceCount} sequences of what three tenants and two end users of a fourth do at once`

it(`show each of them its own, in ${sequences}`, {
  tags: ['rule-12', 'rule-13', 'rule-18'],
  timeout: 60_000 + sequenceCount * 2_000,
}, async ({ task }) => {
  let steps = 0
  const property = fc.asyncProperty(rounds(5), async (sequence) => {
    steps += sequence.flat().filter((step) => step !== null).length
    await act(sequence)
  })
  const details = await fc.check(property, { numRuns: sequenceCount })
  tried(task, { cases: steps, leaks: details.failed ? 1 : 0 })
  // With the seed, and the shortest sequence that fails.
  if (details.failed) throw new Error(fc.defaultReportMessage(details))
})

/** Lets the actors take their steps, those of one round at once, and then look at all they have. */
async function act(sequence: (Step | null)[][]): Promise<void> {
  const { actors, things, leave } = await newActors()
  try {
    for (const round of sequence) {
      const known = [...things]
      const made = await Promise.all(actors.map((actor, index) => take(actor, round[index] ?? null, known)))
      things.push(...made.flat())
    }
    await Promise.all(actors.map((actor) => actor.list()))
  } finally {
    await leave()
  }
  expectPromptsApart()
}

async function take(actor: Actor, step: Step | null, things: readonly Thing[]): Promise<Thing[]> {
  return step ? actor.take(step, things) : []
}

/** Three tenants and the end users of a fourth, all new, and what each has from the beginning. */
async function newActors() {
  const stories = await Promise.all(Array.from({ length: 4 }, () => platform.story.tenant()))
  const shared = stories[3] as TenantStory
  const { key } = await platform.story.endUser(shared.admin, 'uwe')
  const apis = [...stories.slice(0, 3).map(({ keys }) => keys.admin), shared.keys.endUser, key].map((each) => platform.api(each))
  const things: Thing[] = []
  const actors = apis.map(async (api, index) => {
    const { admin, tenant } = stories[Math.min(index, 3)] as TenantStory
    const name = `${tenant.name}/${['admin', 'admin', 'admin', 'ursula', 'uwe'][index]}`
    const keyIds = (await admin.db.apiKey.findMany()).map(({ id }) => encodeId('ApiKey', id))
    const [tenantId, agentId] = [encodeId('Tenant', tenant.id), encodeId('Agent', tenant.defaultAgentId ?? '')]
    const had = [
      { type: 'Tenant', id: tenantId },
      { type: 'Agent', id: agentId },
      ...keyIds.map((id) => ({ type: 'ApiKey', id })),
    ]
    const owner = index < 3 ? name : `${tenant.name}/admin`
    if (index < 4) things.push(...had.map((thing) => ({ ...thing, owner }) as Thing))
    return new Actor({ name, api, userId: ['ursula', 'uwe'][index - 3] ?? null, tenantId, agentId, keyIds })
  })
  return {
    actors: await Promise.all(actors),
    things,
    leave: () => Promise.all(apis.map((api) => api.client.close())),
  }
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
