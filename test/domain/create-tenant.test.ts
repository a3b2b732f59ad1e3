import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { activeAgentConfig } from '../../src/domain/agent-config.ts'
import { auditRow, listAuditEvents } from '../../src/domain/audit.ts'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { Conflict, ValidationProblem } from '../../src/domain/errors.ts'
import { idempotencyTtl } from '../../src/domain/idempotency.ts'
import { newId } from '../../src/domain/ids.ts'
import { createTenant, listTenants } from '../../src/domain/tenant.ts'
import { adminQuery } from '../support/database-url.ts'
import { signInOperator } from '../support/operator.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story
let operator: OperatorScope

beforeAll(async () => {
  story = await startStory()
  operator = await signInOperator(story)
})

afterAll(() => story.close())

const newName = () => `tenant ${newId()}`

describe('createTenant', () => {
  it('makes a tenant with an agent and an admin, whose key works', async () => {
    const name = newName()
    const { tenant, adminKey } = await createTenant(operator, { name, plan: 'ENTERPRISE', adminEmail: 'ada@example.com' })
    expect(tenant).toMatchObject({ name, plan: 'ENTERPRISE', status: 'ACTIVE' })
    const admin = await story.signIn(adminKey ?? '')
    expect(admin.actor).toMatchObject({ role: 'ADMIN', userId: null })
    expect(await admin.db.member.findMany()).toMatchObject([{ email: 'ada@example.com', role: 'ADMIN' }])
    expect(await activeAgentConfig(admin)).toMatchObject({ version: 1, status: 'PUBLISHED' })
    const { edges } = await listAuditEvents(admin, {})
    expect(edges.map(({ node }) => node)).toMatchObject([
      {
        action: 'createTenant',
        actorKind: 'OPERATOR',
        actorName: 'Olga',
        subjectId: tenant.id,
        details: { name, plan: 'ENTERPRISE' },
      },
    ])
  })

  it('makes a key and no member for an admin without an address', async () => {
    const { adminKey } = await createTenant(operator, { name: newName(), plan: 'FREE' })
    expect(await (await story.signIn(adminKey ?? '')).db.member.count()).toBe(0)
  })

  it('makes one however often it is repeated under a key, and shows the admin key once', async () => {
    const input = { name: newName(), plan: 'FREE' as const, idempotencyKey: newId() }
    const first = await createTenant(operator, input)
    expect(first.adminKey).not.toBeNull()
    const again = await createTenant(operator, input)
    expect(again).toMatchObject({ tenant: { id: first.tenant.id, name: input.name }, adminKey: null })
    await expect(createTenant(operator, { ...input, plan: 'PRO' })).rejects.toThrow('with another input')
    await expect(createTenant(operator, { ...input, name: newName() })).rejects.toThrow('with another input')
    // The key is that operator's own.
    await expect(createTenant(await signInOperator(story), input)).rejects.toThrow('The name is taken.')
  })

  it('makes one for equal calls at the same time, and shows the admin key to one of them', async () => {
    const input = { name: newName(), plan: 'FREE' as const, idempotencyKey: newId() }
    const answers = await Promise.all(Array.from({ length: 5 }, () => createTenant(operator, input)))
    expect(new Set(answers.map(({ tenant }) => tenant.id)).size).toBe(1)
    expect(answers.filter(({ adminKey }) => adminKey !== null)).toHaveLength(1)
  })

  it('makes one for calls under one key at the same time that differ', async () => {
    const idempotencyKey = newId()
    const names = Array.from({ length: 5 }, newName)
    const answers = await Promise.allSettled(names.map((name) => createTenant(operator, { name, plan: 'FREE', idempotencyKey })))
    expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const answer of answers) if (answer.status === 'rejected') expect(answer.reason).toBeInstanceOf(Conflict)
    expect((await Promise.all(names.map((name) => story.catalog.findTenantByName(name)))).filter(Boolean)).toHaveLength(1)
  })

  it('forgets a key after a day', async () => {
    const idempotencyKey = newId()
    await createTenant(operator, { name: newName(), plan: 'FREE', idempotencyKey })
    const later = { ...operator, ports: { ...operator.ports, now: () => story.ports.now() + idempotencyTtl } }
    expect((await createTenant(later, { name: newName(), plan: 'FREE', idempotencyKey })).adminKey).not.toBeNull()
  })

  it('refuses a name that is taken', async () => {
    const name = newName()
    await createTenant(operator, { name, plan: 'FREE' })
    await expect(createTenant(operator, { name, plan: 'FREE' })).rejects.toThrow(Conflict)
    await expect(createTenant(operator, { name, plan: 'FREE', idempotencyKey: newId() })).rejects.toThrow(Conflict)
  })

  it('completes a call that was cut off, under its key or without', async () => {
    for (const idempotencyKey of [undefined, newId()]) {
      const [name, id] = [newName(), newId()]
      // What a call leaves that ends before its second transaction.
      const audit = auditRow(
        id,
        { kind: 'SYSTEM', id: null, name: 'x' },
        { action: 'a', subject: 'Tenant', subjectId: id, details: {} },
        0,
      )
      await story.catalog.tenants.reserve({ id, name, plan: 'FREE' }, audit, null)
      const input = { name, plan: 'FREE' as const, idempotencyKey }
      const { tenant, adminKey } = await createTenant(operator, input)
      expect(tenant.id).toBe(id)
      expect((await story.signIn(adminKey ?? '')).tenant.id).toBe(id)
    }
  })

  it('does not take over a tenant that is being erased', async () => {
    const name = newName()
    const { tenant } = await createTenant(operator, { name, plan: 'FREE' })
    const erasing = `status = 'ERASED', fenced_at = now(), default_agent_id = null`
    await adminQuery(story.database.adminUrl, `update tenants set ${erasing} where id = '${tenant.id}'`)
    for (const idempotencyKey of [undefined, newId()]) {
      await expect(createTenant(operator, { name, plan: 'FREE', idempotencyKey })).rejects.toThrow(Conflict)
    }
  })

  it.each([
    ['name', { name: '' }],
    ['name', { name: 'a\0' }],
    ['name', { name: 'x'.repeat(101) }],
    ['adminEmail', { adminEmail: '' }],
    ['adminEmail', { adminEmail: 'x'.repeat(255) }],
    ['idempotencyKey', { idempotencyKey: '' }],
  ])('refuses a bad %s and leaves nothing behind', async (path, change) => {
    const name = newName()
    const refusal = await createTenant(operator, { name, plan: 'FREE', ...change }).catch((error) => error)
    expect(refusal).toBeInstanceOf(ValidationProblem)
    expect(refusal.path).toEqual([path])
    expect(await story.catalog.findTenantByName(name)).toBeNull()
  })
})

describe('listTenants', () => {
  it('shows all, newest first, a page at a time', async () => {
    const names = [newName(), newName(), newName()]
    for (const name of names) await createTenant(operator, { name, plan: 'FREE' })
    const first = await listTenants(operator, { first: 2 })
    expect(first.edges.map(({ node }) => node.name)).toEqual([names[2], names[1]])
    const second = await listTenants(operator, { first: 1, after: first.pageInfo.endCursor })
    expect(second.edges.map(({ node }) => node.name)).toEqual([names[0]])
  })

  it('finds them by status, plan and how the name begins, to the letter', async () => {
    const mark = newId()
    const names = ['a_%', 'a_%\\', 'abc', 'A_%'].map((start) => `${start} ${mark}`)
    for (const name of names) await createTenant(operator, { name, plan: name.startsWith('abc') ? 'PRO' : 'FREE' })
    const suspended = await story.catalog.findTenantByName(names[0] ?? '')
    await adminQuery(story.database.adminUrl, `update tenants set status = 'SUSPENDED' where id = '${suspended?.id}'`)
    const found = async (filter: Parameters<typeof listTenants>[2]) =>
      (await listTenants(operator, {}, filter)).edges.map(({ node }) => node.name).filter((name) => name.endsWith(mark))
    expect(await found({ namePrefix: 'a_%' })).toEqual([names[1], names[0]])
    expect(await found({ namePrefix: 'a_%\\' })).toEqual([names[1]])
    expect(await found({ namePrefix: 'a' })).toEqual([names[2], names[1], names[0]])
    expect(await found({ namePrefix: '' })).toHaveLength(4)
    expect(await found({ plan: 'PRO' })).toEqual([names[2]])
    expect(await found({ status: 'SUSPENDED' })).toEqual([names[0]])
    expect(await found({ status: 'SUSPENDED', plan: 'PRO' })).toEqual([])
    await expect(listTenants(operator, {}, { namePrefix: 'a\0' })).rejects.toThrow(ValidationProblem)
  })
})
