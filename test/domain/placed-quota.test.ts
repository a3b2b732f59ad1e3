import { afterAll, beforeAll, expect, it } from 'vitest'
import { findQuota } from '../../src/domain/quota.ts'
import { changePlan, clearQuotaOverride, setQuotaOverride } from '../../src/domain/quota-override.ts'
import { setSecret } from '../../src/domain/secret.ts'
import { findSettings, updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { signInOperator } from '../support/operator.ts'
import { testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

let story: Story
let own: TestDatabase

beforeAll(async () => {
  ;[story, own] = await Promise.all([startStory(), createTestDatabase({ empty: true })])
})

afterAll(async () => {
  await story.close()
  await own.drop()
})

const settings = {
  timeZone: 'Asia/Kolkata',
  quotaThresholds: [50],
  budgetBehaviour: 'PAUSE',
  downgradeModel: 'gpt-4.1-mini',
  downgradeAt: 70,
  modelKeySecret: 'MODEL_KEY',
  modelBaseUrl: 'https://models.example.com/v1',
} as const

it('a tenant takes its settings and overrides along to a database of its own, and both are changed there', {
  timeout: 60_000,
}, async () => {
  const { tenant, keys } = await story.tenant()
  const operator = { kind: 'operator', operator: await signInOperator(story) } as const
  const limitOf = async (limit: string) => {
    const { limits } = await findQuota(operator, tenant.id)
    return Number(limits.find((each) => each.limit === limit)?.max)
  }
  const admin = await story.signIn(keys.admin)
  await setSecret(admin, { name: settings.modelKeySecret, value: 'sk-of-its-own' })
  await updateTenantSettings(admin, { ...settings, quotaThresholds: [...settings.quotaThresholds] })
  const override = { tenantId: tenant.id, limit: 'MESSAGES_PER_DAY', reason: 'A test.' } as const
  await setQuotaOverride(operator.operator, { ...override, max: 17n })
  {
    await using moving = testMover(story.database)
    await moving.mover.place(tenant.name, own.adminUrl)
  }
  await story.catalog.placements.refresh()

  expect(await findSettings(operator, tenant)).toMatchObject(settings)
  expect(await limitOf('MESSAGES_PER_DAY')).toBe(17)

  await setQuotaOverride(operator.operator, { ...override, max: 23n })
  expect(await limitOf('MESSAGES_PER_DAY')).toBe(23)
  expect(await selectRows(own, 'select max::int as max from quota_overrides')).toEqual([{ max: 23 }])
  await clearQuotaOverride(operator.operator, override)
  const free = await limitOf('MESSAGES_PER_DAY')
  await changePlan(operator.operator, { tenantId: tenant.id, plan: 'ENTERPRISE' })
  expect(await limitOf('MESSAGES_PER_DAY')).toBeGreaterThan(free)
  // Each is in the audit log that the tenant's admins read, where it is.
  const audited = await selectRows(own, "select distinct action from audit_events where actor_kind = 'OPERATOR' order by action")
  expect(audited.map(({ action }) => action)).toEqual(['changePlan', 'clearQuotaOverride', 'setQuotaOverride'])
})

it('another figure of a plan holds for its tenants at once', async () => {
  const { admin } = await story.tenant({ plan: 'PRO' })
  const { admin: other } = await story.tenant({ plan: 'FREE' })
  const perMessage = async (scope: typeof admin) => {
    const { limits } = await findQuota({ kind: 'tenant', scope, expiresAt: null })
    return Number(limits.find(({ limit }) => limit === 'TOKENS_PER_MESSAGE')?.max)
  }
  const before = await perMessage(other)
  await perMessage(admin)
  await asAdmin(story.database, (client) => client.query("update plans set tokens_per_message = 4321 where plan = 'PRO'"))
  const version = await story.data
    .of({ tenantId: admin.tenant.id, userId: null })
    .tenant.findFirst({ select: { limitsVersion: true } })
  const again = { ...admin, tenant: { ...admin.tenant, limitsVersion: version?.limitsVersion ?? 0 } }
  expect([await perMessage(again), await perMessage(other)]).toEqual([4_321, before])
})
