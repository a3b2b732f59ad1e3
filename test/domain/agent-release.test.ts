import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { placedPools } from '../../src/data/placed-pools.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { createAgent, findAgent } from '../../src/domain/agent.ts'
import { activeAgentConfig, canariesByAgent, findAgentConfig, updateAgentConfig } from '../../src/domain/agent-config.ts'
import { publishAgentConfig, rollbackAgentConfig } from '../../src/domain/agent-release.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { Conflict, Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { sendMessage } from '../../src/domain/message.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { ask, startWorker, until } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})
afterAll(() => story.close())

/** What new runs of the tenant's default agent pin. */
async function inUse({ db, tenant }: Scope) {
  const agent = await db.agent.findFirstOrThrow({ where: { id: tenant.defaultAgentId ?? '' } })
  return { active: agent.activeVersion, canary: agent.canaryVersion, percent: agent.canaryPercent }
}

describe('publishing a version', () => {
  test('makes a draft the active version, and immutable', async () => {
    const { admin } = await story.tenant()
    const draft = await updateAgentConfig(admin, { maxTurns: 2, publish: false })
    const published = await publishAgentConfig(admin, { agentConfigId: draft.id })
    expect(published).toEqual({ ...draft, status: 'PUBLISHED', publishedAt: published.publishedAt })
    expect(published.publishedAt).not.toBeNull()
    expect(await activeAgentConfig(admin)).toEqual(published)
    const next = await updateAgentConfig(admin, { maxTurns: 3, publish: false })
    expect(next.version).toBe(3)
    expect(await publishAgentConfig(admin, { agentConfigId: draft.id })).toEqual(published)
  })

  test('with a percentage makes it a canary, which ends when any version is published or returned to', async () => {
    const { admin } = await story.tenant()
    const draft = await updateAgentConfig(admin, { maxTurns: 2, publish: false })
    const begin = () => publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 10 })
    expect(await begin()).toMatchObject({ version: 2, status: 'PUBLISHED' })
    expect(await inUse(admin)).toEqual({ active: 1, canary: 2, percent: 10 })
    const agentId = draft.agentId
    expect((await canariesByAgent(admin, [agentId])).get(agentId)?.id).toBe(draft.id)
    await publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 99 })
    expect(await inUse(admin)).toEqual({ active: 1, canary: 2, percent: 99 })

    await rollbackAgentConfig(admin, { version: 1 })
    expect(await inUse(admin)).toEqual({ active: 1, canary: null, percent: null })
    expect(await canariesByAgent(admin, [agentId])).toEqual(new Map())
    await begin()
    await updateAgentConfig(admin, { maxTurns: 4 })
    expect(await inUse(admin)).toEqual({ active: 3, canary: null, percent: null })
    await begin()
    await publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 100 })
    expect(await inUse(admin)).toEqual({ active: 2, canary: null, percent: null })
  })

  test('refuses what makes no sense', async () => {
    const { admin } = await story.tenant()
    const active = await activeAgentConfig(admin)
    for (const canaryPercent of [0, 101, -1, 1.5, Number.NaN]) {
      const refusal = await publishAgentConfig(admin, { agentConfigId: active.id, canaryPercent }).catch((error) => error)
      expect(refusal).toBeInstanceOf(ValidationProblem)
      expect(refusal.path).toEqual(['canaryPercent'])
    }
    await expect(publishAgentConfig(admin, { agentConfigId: active.id, canaryPercent: 5 })).rejects.toThrow(Conflict)
    expect(await inUse(admin)).toEqual({ active: 1, canary: null, percent: null })
  })
})

describe('rolling back', () => {
  test('makes an older version active again, and no new one', async () => {
    const { admin } = await story.tenant({ agent: { systemPrompt: 'One.' } })
    await updateAgentConfig(admin, { systemPrompt: 'Two.' })
    expect(await rollbackAgentConfig(admin, { version: 1 })).toMatchObject({ version: 1, systemPrompt: 'One.' })
    expect(await activeAgentConfig(admin)).toMatchObject({ version: 1, systemPrompt: 'One.' })
    // And forth.
    await rollbackAgentConfig(admin, { version: 2 })
    expect(await activeAgentConfig(admin)).toMatchObject({ version: 2 })
    expect(await admin.db.agentConfig.count()).toBe(2)
    // What comes next is number 3, on top of what is active.
    await rollbackAgentConfig(admin, { version: 1 })
    expect(await updateAgentConfig(admin, { maxTurns: 2 })).toMatchObject({ version: 3, systemPrompt: 'One.' })
  })

  test('finds no version that is not there, and refuses a draft', async () => {
    const { admin } = await story.tenant()
    await updateAgentConfig(admin, { maxTurns: 2, publish: false })
    await expect(rollbackAgentConfig(admin, { version: 2 })).rejects.toThrow(Conflict)
    for (const version of [0, 3, -1]) await expect(rollbackAgentConfig(admin, { version })).rejects.toThrow(NotFound)
  })
})

test('each is for admins, and for their own agents', async () => {
  const [acme, globex] = [await story.tenant(), await story.tenant()]
  const foreign = await activeAgentConfig(globex.admin)
  for (const scope of [acme.member, acme.endUser]) {
    await expect(publishAgentConfig(scope, { agentConfigId: foreign.id })).rejects.toThrow(Forbidden)
    await expect(rollbackAgentConfig(scope, { version: 1 })).rejects.toThrow(Forbidden)
  }
  const refusal = (call: Promise<unknown>) => call.catch((error) => `${error.name}: ${error.message}`)
  const published = [foreign.id, newId(), 'nonsense'].map((id) => refusal(publishAgentConfig(acme.admin, { agentConfigId: id })))
  expect(new Set(await Promise.all(published))).toEqual(new Set(['NotFound: There is no such agent configuration.']))
  const agentIds = [foreign.agentId, newId(), 'nonsense']
  const returned = agentIds.map((agentId) => refusal(rollbackAgentConfig(acme.admin, { agentId, version: 1 })))
  expect(new Set(await Promise.all(returned))).toEqual(new Set(['NotFound: There is no such agent.']))
})

test('what is done to one agent is not done to another', async () => {
  const { admin } = await story.tenant()
  const { id: agentId } = await createAgent(admin, { name: 'Other' })
  const draft = await updateAgentConfig(admin, { agentId, maxTurns: 2, publish: false })
  await publishAgentConfig(admin, { agentConfigId: draft.id })
  expect(await inUse(admin)).toEqual({ active: 1, canary: null, percent: null })
  expect(await findAgent(admin, agentId)).toMatchObject({ activeVersion: 2 })
})

describe('a canary', () => {
  const conversations = 40

  /** Asks something in each conversation, and answers the version that each was answered by. */
  async function versions({ member }: TenantStory, ids: string[]): Promise<number[]> {
    const runs = await Promise.all(ids.map((id) => ask(member, 'Which are you?', id)))
    const where = { id: { in: runs.map(({ run }) => run.id) } }
    await until(async () => (await member.db.run.count({ where: { ...where, finishedAt: null } })) === 0)
    const rows = await member.db.run.findMany({ where })
    return ids.map((id) => rows.find(({ conversationId }) => conversationId === id)?.configVersion ?? 0)
  }

  test('falls to its share of the conversations, which stay with it, also when the share grows', async () => {
    const model = scriptedModel([
      async function* (request, signal) {
        yield* says(String(request.messages[0]?.content))(request, signal)
      },
    ])
    await using _ = await startWorker(story, { model })
    const tenant = await story.tenant({ plan: 'ENTERPRISE', agent: { systemPrompt: 'One.' } })
    const { admin, member } = tenant
    const draft = await updateAgentConfig(admin, { systemPrompt: 'Two.', publish: false })
    const ids = []
    for (let count = 0; count < conversations; count++) ids.push((await createConversation(member, {})).id)
    expect(new Set(await versions(tenant, ids))).toEqual(new Set([1]))

    await publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 40 })
    const first = await versions(tenant, ids)
    // Outside of this once in more than 10,000 times.
    const share = first.filter((version) => version === 2).length
    expect(share).toBeGreaterThan(4)
    expect(share).toBeLessThan(28)
    await publishAgentConfig(admin, { agentConfigId: draft.id, canaryPercent: 70 })
    const second = await versions(tenant, ids)
    expect(second.filter((version) => version === 2).length).toBeGreaterThan(share)
    expect(first.flatMap((version, index) => (version === 2 ? [second[index]] : []))).toEqual(Array(share).fill(2))

    // What was answered is what the version says.
    const runs = await member.db.run.findMany({ include: { messages: { where: { role: 'ASSISTANT' } } } })
    expect(runs).toHaveLength(3 * conversations)
    for (const { configVersion, messages } of runs) expect(messages[0]?.content).toBe(configVersion === 2 ? 'Two.' : 'One.')
  }, 30_000)
})

describe('whoever asks once a change was answered', () => {
  let elsewhere: TenantData

  beforeAll(() => {
    const openPool = (connectionString: string) => new TenantPool({ connectionString, max: 10, onIdleError: story.ports.report })
    elsewhere = new TenantData(openPool(story.database.appUrl), { elsewhere: placedPools(story.catalog.placements, openPool) })
  })
  afterAll(() => elsewhere.close())

  test('gets what it made active, on every instance, whoever reads or writes meanwhile', async () => {
    const { admin } = await story.tenant({ plan: 'ENTERPRISE', agent: { systemPrompt: '1' } })
    const tenantId = admin.tenant.id
    const there: Scope = { ...admin, db: elsewhere.of({ tenantId, userId: null }) }
    /** The versions that changes make active, in their order, and how many of the changes have been answered. */
    const active = [1]
    let answered = 0
    let over = false
    let [reads, claims] = [0, 0]

    /** Reads a version as long as there are changes: it is that of the last answered change, or of one under way. */
    const reader = async (read: () => Promise<{ version: number; systemPrompt: string }>, counted: () => void) => {
      while (!over) {
        const before = answered
        const { version, systemPrompt } = await read()
        expect(active.slice(before)).toContain(version)
        expect(systemPrompt).toBe(String(version))
        counted()
      }
    }
    const query = (scope: Scope) =>
      reader(
        () => activeAgentConfig(scope),
        () => reads++,
      )
    const claim = (scope: Scope) => {
      const claimed = async () => {
        const conversation = await createConversation(scope, {})
        await sendMessage(scope, { conversationId: conversation.id, content: 'Which are you?' })
        const before = answered
        const run = (await claimRun(scope.db, tenantId, newId()))?.run
        // The other one was faster.
        if (!run) return { version: active[before] ?? 0, systemPrompt: String(active[before]) }
        expect(run.configVersion).toBe(run.config.version)
        return run.config
      }
      return reader(claimed, () => claims++)
    }

    const change = async (by: Scope, target: number, work: () => Promise<unknown>) => {
      // A transaction that has read the version before, and goes on until after the change.
      const where = { version: active.at(-1) ?? 0 }
      const [early, late] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
      const slow = (by === admin ? there : admin).db.$transaction(async (tx) => {
        await tx.agentConfig.findFirstOrThrow({ where })
        early.resolve()
        await late.promise
        await tx.agentConfig.findFirstOrThrow({ where })
      })
      await early.promise
      active.push(target)
      await work()
      answered += 1
      late.resolve()
      await slow
      for (const scope of [admin, there]) expect((await activeAgentConfig(scope)).version).toBe(target)
    }
    const changes = async () => {
      for (let round = 0; round < 6; round++) {
        const by = round % 2 === 0 ? admin : there
        const next = 2 * round + 2
        await change(by, next, () => updateAgentConfig(by, { systemPrompt: String(next) }))
        const draft = await updateAgentConfig(by, { systemPrompt: String(next + 1), publish: false })
        await change(by, next + 1, () => publishAgentConfig(by, { agentConfigId: draft.id }))
        await change(by, next, () => rollbackAgentConfig(by, { version: next }))
      }
    }
    const changed = changes().finally(() => {
      over = true
    })
    await Promise.all([changed, query(admin), query(there), query(there), claim(admin), claim(there)])
    expect(Math.min(reads, claims)).toBeGreaterThan(10)
    expect(await findAgentConfig(admin, (await activeAgentConfig(there)).id)).toMatchObject({ version: 12 })
  }, 30_000)
})
