import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { activeAgentConfig } from '../../src/domain/agent-config.ts'
import type { Principal } from '../../src/domain/authenticate.ts'
import { Conflict, Forbidden, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { seedDemo } from '../../src/domain/seed.ts'
import { findTenant, registerTenant, type TenantRegistration } from '../../src/domain/tenant.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
})
afterAll(() => story.close())

const initech = (name: string): TenantRegistration => ({
  name,
  plan: 'FREE',
  agent: { slug: 'clippy', name: 'Clippy', systemPrompt: 'You look like you are writing a letter.' },
  staff: [{ name: 'Bill', email: 'bill@initech.example', role: 'ADMIN' }],
})

describe('findTenant', () => {
  const asTenant = (scope: Scope): Principal => ({ kind: 'tenant', scope, expiresAt: null })
  const operator = (): Principal => ({
    kind: 'operator',
    operator: { ...story, operator: { id: newId(), name: 'Olga' } },
  })

  test('finds staff their own tenant and no other', async () => {
    for (const scope of [acme.admin, acme.member]) {
      expect(await findTenant(asTenant(scope))).toEqual(acme.tenant)
      expect(await findTenant(asTenant(scope), acme.tenant.id)).toEqual(acme.tenant)
      for (const id of [globex.tenant.id, newId(), 'nonsense']) expect(await findTenant(asTenant(scope), id)).toBeNull()
    }
    await expect(findTenant(asTenant(acme.endUser))).rejects.toThrow(Forbidden)
  })

  test('finds operators any tenant they name', async () => {
    expect(await findTenant(operator(), globex.tenant.id)).toEqual(globex.tenant)
    for (const id of [undefined, null, newId(), 'nonsense', '\0']) expect(await findTenant(operator(), id)).toBeNull()
  })
})

describe('registerTenant', () => {
  test('sets up agent, configuration, members and keys', async () => {
    const { tenant, keys } = await registerTenant(story, initech('Initech'))
    expect(tenant).toMatchObject({ name: 'Initech', plan: 'FREE', status: 'ACTIVE' })
    const [key = ''] = keys
    const admin = await story.signIn(key)
    expect(admin.tenant).toEqual(tenant)
    expect(admin.actor).toMatchObject({ name: 'Bill', role: 'ADMIN' })
    expect(await admin.db.member.findMany()).toMatchObject([{ name: 'Bill', email: 'bill@initech.example', role: 'ADMIN' }])
    expect(await activeAgentConfig(admin)).toMatchObject({
      agentId: tenant.defaultAgentId,
      version: 1,
      status: 'PUBLISHED',
      systemPrompt: 'You look like you are writing a letter.',
      model: 'gpt-4o-mini',
    })
  })

  test('refuses a name that is taken, also by somebody who is registering right now', async () => {
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => registerTenant(story, initech('Race'))))
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(Conflict)
    await expect(registerTenant(story, initech('Race'))).rejects.toThrow(Conflict)
    await expect(registerTenant(story, initech(' '))).rejects.toThrow(ValidationProblem)
  })

  test('leaves nothing half-made, and completes what was cut off', async () => {
    const broken = { ...initech('Unlucky'), staff: [{ name: 'Bill', email: '', role: 'ADMIN' as const }] }
    await expect(registerTenant(story, broken)).rejects.toThrow(ValidationProblem)
    const row = await story.catalog.findTenantByName('Unlucky')
    expect(row?.defaultAgentId).toBeNull()
    expect(await story.data.of({ tenantId: row?.id ?? '', userId: null }).agent.count()).toBe(0)
    const results = await Promise.allSettled(Array.from({ length: 3 }, () => registerTenant(story, initech('Unlucky'))))
    const completed = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.tenant.id] : []))
    expect(completed).toEqual([row?.id])
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(Conflict)
  })
})

describe('seedDemo', () => {
  test('makes two tenants whose agents differ, each with an admin and a member, and an operator; once', async () => {
    const demo = await seedDemo(story)
    expect(demo.tenants.map(({ name, plan }) => [name, plan])).toEqual([
      ['acme', 'PRO'],
      ['globex', 'FREE'],
    ])
    expect(await story.authenticate(demo.operatorKey)).toMatchObject({ kind: 'operator' })
    const prompts: string[] = []
    for (const { name, adminKey, memberKey } of demo.tenants) {
      const admin = await story.signIn(adminKey)
      const member = await story.signIn(memberKey)
      expect([admin.tenant.name, admin.actor.role]).toEqual([name, 'ADMIN'])
      expect([member.tenant.name, member.actor.role]).toEqual([name, 'MEMBER'])
      expect(await admin.db.apiKey.count({ where: { memberId: { not: null } } })).toBe(2)
      prompts.push((await activeAgentConfig(admin)).systemPrompt)
    }
    expect(prompts[0]).toContain('Acme')
    expect(prompts[1]).toContain('Globex')
    expect(await seedDemo(story)).toEqual({ operatorKey: null, tenants: [] })
  })
})
