import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  agentsByIds,
  archiveAgent,
  createAgent,
  defaultAmong,
  findAgent,
  listAgents,
  renameAgent,
  setDefaultAgent,
} from '../../src/domain/agent.ts'
import { activeAgentConfig, findAgentConfig, updateAgentConfig } from '../../src/domain/agent-config.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { Conflict, Forbidden, NotFound } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { sendMessage } from '../../src/domain/message.ts'
import { follow, startWorker } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
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

describe('another agent', () => {
  test('answers by a first version of its own, published', async () => {
    const { admin, member } = await story.tenant()
    const agent = await createAgent(admin, { name: 'Sales & more', systemPrompt: 'Sell.', maxTurns: 3, historyPolicy: 'NONE' })
    expect(agent).toMatchObject({ slug: 'sales-more', name: 'Sales & more', activeVersion: 1, archivedAt: null })
    expect(await activeAgentConfig(member, agent.id)).toMatchObject({
      ...{ version: 1, status: 'PUBLISHED', systemPrompt: 'Sell.', maxTurns: 3, historyPolicy: 'NONE' },
      ...{ model: 'gpt-4o-mini', budgetBehaviour: null, branding: {} },
    })
    expect((await listAgents(member)).map(({ slug }) => slug)).toEqual(['assistant', 'sales-more'])
    expect((await createConversation(member, { agentId: agent.id })).agentId).toBe(agent.id)
    expect((await createConversation(member, {})).agentId).toBe(admin.tenant.defaultAgentId)
  })

  test('gets a slug that is not taken, and may not have one that is', async () => {
    const { admin } = await story.tenant()
    const slugs = await Promise.all(Array.from({ length: 5 }, () => createAgent(admin, { name: 'Assistant' })))
    expect(slugs.map(({ slug }) => slug).sort()).toEqual([2, 3, 4, 5, 6].map((number) => `assistant-${number}`))
    for (const slug of ['assistant', 'Not Proper']) {
      await expect(createAgent(admin, { name: 'x', slug })).rejects.toMatchObject({ code: 'VALIDATION', path: ['slug'] })
    }
    const elsewhere = await story.tenant()
    expect((await createAgent(elsewhere.admin, { name: 'x', slug: 'assistant-2' })).slug).toBe('assistant-2')
  })

  test('is made once under one idempotency key', async () => {
    const { admin } = await story.tenant()
    const made = await Promise.all(Array.from({ length: 5 }, () => createAgent(admin, { name: 'Once', idempotencyKey: 'k' })))
    expect(new Set(made.map(({ id }) => id)).size).toBe(1)
    await expect(createAgent(admin, { name: 'Twice', idempotencyKey: 'k' })).rejects.toThrow(Conflict)
    expect(await listAgents(admin)).toHaveLength(2)
  })

  test('is not made when its configuration breaks a rule', async () => {
    const { admin } = await story.tenant()
    await expect(createAgent(admin, { name: 'x', temperature: 3 })).rejects.toMatchObject({ path: ['temperature'] })
    await expect(createAgent(admin, { name: ' ' })).rejects.toMatchObject({ path: ['name'] })
    expect(await listAgents(admin)).toHaveLength(1)
  })

  test('is not the 101st in use, however many are made at once', async () => {
    const { admin, tenant } = await story.tenant()
    const row = (_: unknown, index: number) => ({
      ...{ id: newId(), tenantId: tenant.id, slug: `s${index}`, name: 's', activeVersion: 1 },
      archivedAt: index < 50 ? new Date() : null,
    })
    await admin.db.agent.createMany({ data: Array.from({ length: 148 }, row) })
    const tried = await Promise.allSettled(Array.from({ length: 4 }, () => createAgent(admin, { name: 'Last' })))
    expect(tried.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    const [refused] = tried.filter((attempt) => attempt.status === 'rejected')
    expect(refused?.reason).toBeInstanceOf(Conflict)
    const agentId = (await listAgents(admin)).find(({ slug }) => slug === 'last')?.id ?? ''
    await archiveAgent(admin, { agentId })
    expect((await createAgent(admin, { name: 'Last' })).slug).toBe('last-2')
  })
})

test('a renamed agent keeps its slug', async () => {
  const { admin } = await story.tenant()
  const { id, slug } = await createAgent(admin, { name: 'Old' })
  expect(await renameAgent(admin, { agentId: id, name: 'New' })).toMatchObject({ id, slug, name: 'New' })
  expect(await findAgent(admin, id)).toMatchObject({ slug, name: 'New' })
  await expect(renameAgent(admin, { agentId: id, name: '' })).rejects.toMatchObject({ path: ['name'] })
})

describe('an archived agent', () => {
  test('answers no new conversation and no new message, and ends what it was asked before', async () => {
    const { admin, member, endUser } = await story.tenant()
    const agent = await createAgent(admin, { name: 'Old' })
    const { id: conversationId } = await createConversation(endUser, { agentId: agent.id })
    const { run } = await sendMessage(endUser, { conversationId, content: 'Still there?' })
    const archived = await archiveAgent(admin, { agentId: agent.id })
    expect(archived.archivedAt).not.toBeNull()
    expect(await archiveAgent(admin, { agentId: agent.id })).toEqual(archived)

    await expect(createConversation(member, { agentId: agent.id })).rejects.toThrow(NotFound)
    for (const whenBusy of ['ENQUEUE', 'REJECT', 'INTERRUPT'] as const) {
      await expect(sendMessage(endUser, { conversationId, content: 'And now?', whenBusy })).rejects.toThrow(Conflict)
    }
    expect(await member.db.message.count({ where: { conversationId } })).toBe(1)

    await using _ = await startWorker(story, { model: scriptedModel([says('Yes.')]) })
    expect((await follow(endUser, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
  })

  test('is not the default one, also when both are asked for at once', async () => {
    const { admin } = await story.tenant()
    await expect(archiveAgent(admin, { agentId: admin.tenant.defaultAgentId ?? '' })).rejects.toThrow(Conflict)
    for (let round = 0; round < 10; round++) {
      const { id: agentId } = await createAgent(admin, { name: 'Next' })
      await Promise.allSettled([archiveAgent(admin, { agentId }), setDefaultAgent(admin, { agentId })])
      const [byDefault] = (
        await defaultAmong(
          admin,
          (await listAgents(admin)).map(({ id }) => id),
        )
      ).keys()
      expect((await findAgent(admin, byDefault ?? ''))?.archivedAt).toBeNull()
    }
  })

  test('does not become the default one', async () => {
    const { admin } = await story.tenant()
    const { id: agentId } = await createAgent(admin, { name: 'Old' })
    await archiveAgent(admin, { agentId })
    await expect(setDefaultAgent(admin, { agentId })).rejects.toThrow(Conflict)
  })
})

test('the default agent is another at once, also for whoever signed in before', async () => {
  const { admin, member } = await story.tenant()
  const { id: agentId } = await createAgent(admin, { name: 'Next', systemPrompt: 'Be next.' })
  await setDefaultAgent(admin, { agentId })
  expect((await createConversation(member, {})).agentId).toBe(agentId)
  expect((await activeAgentConfig(member)).systemPrompt).toBe('Be next.')
  expect([...(await defaultAmong(member, [agentId, admin.tenant.defaultAgentId ?? ''])).keys()]).toEqual([agentId])
  const { id } = await updateAgentConfig(admin, { maxTurns: 2 })
  expect((await findAgentConfig(member, id))?.agentId).toBe(agentId)
})

test("another tenant's agent is not made anything of", async () => {
  const { admin } = await story.tenant()
  const foreign = globex.tenant.defaultAgentId ?? ''
  const failures = []
  for (const agentId of [foreign, newId(), 'nonsense']) {
    failures.push(await renameAgent(admin, { agentId, name: 'x' }).catch((error) => error))
    failures.push(await archiveAgent(admin, { agentId }).catch((error) => error))
    failures.push(await setDefaultAgent(admin, { agentId }).catch((error) => error))
  }
  for (const failure of failures) {
    expect(failure).toBeInstanceOf(NotFound)
    expect(failure.message).toBe(failures[0].message)
  }
  expect(await findAgent(globex.admin, foreign)).toMatchObject({ archivedAt: null })
})
