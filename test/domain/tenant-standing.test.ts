// @module-tag rule-17
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { listAuditEvents } from '../../src/domain/audit.ts'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { Conflict, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { resumeTenant, suspendTenant } from '../../src/domain/tenant-standing.ts'
import { adminQuery } from '../support/database-url.ts'
import { signInOperator } from '../support/operator.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let operator: OperatorScope

beforeAll(async () => {
  story = await startStory()
  operator = await signInOperator(story)
})

afterAll(() => story.close())

const suspend = ({ tenant }: TenantStory, reason = 'They did not pay.') =>
  suspendTenant(operator, { tenantId: tenant.id, reason })
const resume = ({ tenant }: TenantStory) => resumeTenant(operator, { tenantId: tenant.id })
const versionOf = async ({ tenant }: TenantStory) =>
  (await story.catalog.tenants.accessVersions([tenant.id])).get(tenant.id) ?? Number.NaN

describe('suspending a tenant', () => {
  it('shuts out everybody of it and nobody else; resuming lets them in again', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    expect((await suspend(acme)).tenant).toMatchObject({ id: acme.tenant.id, status: 'SUSPENDED' })
    for (const key of Object.values(acme.keys)) expect(await story.authenticate(key)).toBeNull()
    for (const key of Object.values(globex.keys)) expect(await story.authenticate(key)).not.toBeNull()
    expect((await resume(acme)).tenant).toMatchObject({ status: 'ACTIVE' })
    for (const key of Object.values(acme.keys)) expect(await story.authenticate(key)).not.toBeNull()
  })

  it('tells every instance, by a signal and by the version', async () => {
    const acme = await story.tenant()
    const [version, before] = [await versionOf(acme), story.signals.length]
    await suspend(acme)
    await resume(acme)
    const signal = { type: 'AccessChanged', tenantId: acme.tenant.id }
    expect(story.signals.slice(before)).toEqual([signal, signal])
    expect(await versionOf(acme)).toBe(version + 2)
  })

  it('is noted for the tenant to read, once, however often it is asked for', async () => {
    const acme = await story.tenant()
    const version = await versionOf(acme)
    await Promise.all([suspend(acme), suspend(acme, 'Again.'), suspend(acme)])
    await resume(acme)
    await resume(acme)
    expect(await versionOf(acme)).toBe(version + 2)
    const { edges } = await listAuditEvents(acme.admin, {})
    const [resumed, suspended, other] = edges.map(({ node }) => node)
    const by = {
      actorKind: 'OPERATOR',
      actorId: operator.operator.id,
      actorName: 'Olga',
      subject: 'Tenant',
      subjectId: acme.tenant.id,
    }
    expect(resumed).toMatchObject({ ...by, action: 'resumeTenant', details: {} })
    expect(suspended).toMatchObject({ ...by, action: 'suspendTenant', details: { reason: expect.stringMatching(/pay|Again/) } })
    expect(other?.action).toBe('createApiKey')
  })

  it('finds no tenant by an id that nobody has', async () => {
    for (const tenantId of [newId(), 'nonsense', '\0']) {
      await expect(suspendTenant(operator, { tenantId, reason: 'x' })).rejects.toThrow(NotFound)
      await expect(resumeTenant(operator, { tenantId })).rejects.toThrow(NotFound)
    }
  })

  it.each(['MOVING', 'ERASED'])('or resuming one that is %s is a conflict', async (status) => {
    const acme = await story.tenant()
    await adminQuery(story.database.adminUrl, `update tenants set status = '${status}' where id = '${acme.tenant.id}'`)
    const version = await versionOf(acme)
    await expect(suspend(acme)).rejects.toThrow(Conflict)
    await expect(resume(acme)).rejects.toThrow(Conflict)
    expect(await versionOf(acme)).toBe(version)
  })

  it.each(['', ' ', 'a\0', 'x'.repeat(1_001)])('needs a reason, and %j is none', async (reason) => {
    const acme = await story.tenant()
    const refusal = await suspend(acme, reason).catch((error) => error)
    expect(refusal).toBeInstanceOf(ValidationProblem)
    expect(refusal.path).toEqual(['reason'])
    expect(await story.authenticate(acme.keys.admin)).not.toBeNull()
  })
})
