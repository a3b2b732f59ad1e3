import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { agentReplySubscription } from '../operations/agent-reply.ts'
import { runQuery } from '../operations/run.ts'
import {
  createTenantMutation,
  resumeTenantMutation,
  suspendTenantMutation,
  tenantQuery,
  tenantsQuery,
} from '../operations/tenant.ts'
import { viewerQuery } from '../operations/viewer.ts'
import type { Api } from '../support/api.ts'
import { payload, say } from '../support/conversing.ts'
import { stallsAfter } from '../support/fake-upstream.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { until } from '../support/run-story.ts'

let platform: TestPlatform
let operator: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  operator = platform.api(await operatorKey(platform.story))
  platform.upstream.otherwise(stallsAfter('Once upon a time'))
})

afterAll(() => platform.stop())

describe('an operator', () => {
  it('makes a tenant whose admin can begin at once', async () => {
    const input = { name: 'Initech', plan: 'ENTERPRISE' as const, adminEmail: 'bill@initech.example', idempotencyKey: 'k' }
    const { createTenant } = await operator.data(createTenantMutation, { input })
    const { tenant, adminKey } = payload(createTenant, 'CreateTenantPayload')
    expect(tenant).toEqual({ id: expect.any(String), name: 'Initech', plan: 'ENTERPRISE', status: 'ACTIVE' })
    expect((await platform.api(adminKey ?? '').data(viewerQuery)).viewer).toMatchObject({ role: 'ADMIN', tenant })
    const again = await operator.data(createTenantMutation, { input })
    expect(again.createTenant).toEqual({ ...createTenant, adminKey: null })
    expect((await operator.data(createTenantMutation, { input: { ...input, plan: 'FREE' } })).createTenant).toMatchObject({
      __typename: 'Conflict',
      message: 'The idempotency key was used with another input.',
    })
  })

  it('suspends one, which ends its runs with the reason, and resumes it', async () => {
    const { tenant, keys } = platform.acme
    const tenantId = encodeId('Tenant', tenant.id)
    const api = platform.api(keys.member)
    const { runId } = await say(api, 'Tell me a story.')
    // A run may be under way for a moment before the first word of its answer has come.
    for await (const { agentReply: event } of api.follow(agentReplySubscription, { runId })) {
      if (event.__typename === 'TextDelta' || event.__typename === 'Snapshot') break
    }
    expect((await api.data(runQuery, { id: runId })).run).toMatchObject({ status: 'RUNNING', failure: null })

    const { suspendTenant } = await operator.data(suspendTenantMutation, { input: { tenantId, reason: 'They did not pay.' } })
    expect(payload(suspendTenant, 'SuspendTenantPayload').tenant).toEqual({ id: tenantId, status: 'SUSPENDED' })
    expect((await api.ask(viewerQuery)).status).toBe(401)
    expect((await operator.data(tenantQuery, { id: tenantId })).tenant?.status).toBe('SUSPENDED')

    const { resumeTenant } = await operator.data(resumeTenantMutation, { input: { tenantId } })
    expect(payload(resumeTenant, 'ResumeTenantPayload').tenant).toEqual({ id: tenantId, status: 'ACTIVE' })
    await until(async () => (await api.data(runQuery, { id: runId })).run?.status === 'CANCELLED')
    const failure = { code: 'TENANT_SUSPENDED', message: 'The tenant was suspended.' }
    expect((await api.data(runQuery, { id: runId })).run).toMatchObject({ failure, reply: { content: 'Once upon a time' } })
  })

  it('shows no reason for a run that has one and has not ended', async () => {
    const api = platform.api(platform.globex.keys.member)
    const { runId } = await say(api, 'Tell me a story.')
    await until(async () => (await api.data(runQuery, { id: runId })).run?.status === 'RUNNING')
    await platform.globex.admin.db.run.updateMany({ where: { status: 'RUNNING' }, data: { failureCode: 'TENANT_SUSPENDED' } })
    expect((await api.data(runQuery, { id: runId })).run?.failure).toBeNull()
    await platform.globex.admin.db.run.updateMany({ where: { status: 'RUNNING' }, data: { cancelRequestedAt: new Date() } })
    await until(async () => (await api.data(runQuery, { id: runId })).run?.status === 'CANCELLED')
    expect((await api.data(runQuery, { id: runId })).run?.failure?.code).toBe('TENANT_SUSPENDED')
  })

  it('lists tenants, a page at a time', async () => {
    const filter = { namePrefix: 'tenant-', status: 'ACTIVE' as const, plan: 'PRO' as const }
    const first = (await operator.data(tenantsQuery, { first: 1, filter })).tenants
    expect(first.edges.map(({ node }) => node.name)).toEqual([platform.globex.tenant.name])
    expect(first.pageInfo.hasNextPage).toBe(true)
    const rest = (await operator.data(tenantsQuery, { after: first.pageInfo.endCursor, filter })).tenants
    expect(rest.edges.map(({ node }) => node.name)).toEqual([platform.acme.tenant.name])
  })

  it('is told of an id that names nothing', async () => {
    const { suspendTenant } = await operator.data(suspendTenantMutation, { input: { tenantId: 'nonsense', reason: 'x' } })
    const { resumeTenant } = await operator.data(resumeTenantMutation, {
      input: { tenantId: encodeId('Run', platform.acme.tenant.id) },
    })
    expect([suspendTenant.__typename, resumeTenant.__typename]).toEqual(['NotFound', 'NotFound'])
  })
})

describe.each(['admin', 'member', 'endUser'] as const)('an %s of a tenant', (role) => {
  it('does nothing of that', async () => {
    const { keys, tenant } = platform.acme
    const api = platform.api(keys[role])
    const tenantId = encodeId('Tenant', tenant.id)
    const { createTenant } = await api.data(createTenantMutation, { input: { name: 'Mine', plan: 'FREE' } })
    const { suspendTenant } = await api.data(suspendTenantMutation, { input: { tenantId, reason: 'x' } })
    const { resumeTenant } = await api.data(resumeTenantMutation, { input: { tenantId } })
    expect([createTenant, suspendTenant, resumeTenant].map(({ __typename }) => __typename)).toEqual(Array(3).fill('Forbidden'))
    const { errors } = await api.ask(tenantsQuery, { first: 1 })
    expect(errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
  })
})
