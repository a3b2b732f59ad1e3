import { afterAll, beforeAll, expect, test } from 'vitest'
import { agentsByIds, findAgent, listAgents } from '../../src/domain/agent.ts'
import { Forbidden } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant({ agent: { slug: 'desk', name: 'Help desk' } })
  globex = await story.tenant()
})
afterAll(() => story.close())

test('a tenant begins with one agent, its default', async () => {
  const agents = await listAgents(acme.member)
  expect(agents).toHaveLength(1)
  expect(agents[0]).toMatchObject({ id: acme.tenant.defaultAgentId, slug: 'desk', name: 'Help desk', activeVersion: 1 })
  expect(await findAgent(acme.member, agents[0]?.id ?? '')).toEqual(agents[0])
})

test('agents are listed oldest first', async () => {
  const { admin } = await story.tenant()
  for (const slug of ['b', 'a']) {
    story.advance(1000)
    const createdAt = new Date(story.ports.now())
    await admin.db.agent.create({
      data: { id: newId(), tenantId: admin.tenant.id, slug, name: slug, activeVersion: 1, createdAt },
    })
  }
  expect((await listAgents(admin)).map(({ slug }) => slug)).toEqual(['assistant', 'b', 'a'])
})

test("another tenant's agent is no agent", async () => {
  const foreign = globex.tenant.defaultAgentId ?? ''
  for (const id of [foreign, newId(), 'nonsense', '\0']) expect(await findAgent(acme.admin, id)).toBeNull()
  const own = acme.tenant.defaultAgentId ?? ''
  expect([...(await agentsByIds(acme.admin, [own, foreign, newId(), 'nonsense'])).keys()]).toEqual([own])
})

test('end users see who answers them, and no list', async () => {
  const own = acme.tenant.defaultAgentId ?? ''
  expect((await agentsByIds(acme.endUser, [own])).get(own)?.name).toBe('Help desk')
  await expect(listAgents(acme.endUser)).rejects.toThrow(Forbidden)
  await expect(findAgent(acme.endUser, own)).rejects.toThrow(Forbidden)
})
