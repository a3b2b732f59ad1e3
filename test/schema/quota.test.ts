import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import {
  changePlanMutation,
  clearQuotaOverrideMutation,
  limitedMessageMutation,
  quotaChangedSubscription,
  quotaQuery,
  setQuotaOverrideMutation,
  tenantSettingsQuery,
  updateTenantSettingsMutation,
} from '../operations/quota.ts'
import type { Api } from '../support/api.ts'
import { begin, say } from '../support/conversing.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import type { TenantStory } from '../support/story.ts'

let platform: TestPlatform
let operator: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  operator = platform.api(await operatorKey(platform.story))
})

afterAll(() => platform.stop())

async function newcomer(): Promise<{ tenant: TenantStory; tenantId: string; admin: Api; member: Api }> {
  const tenant = await platform.story.tenant()
  const [admin, member] = [platform.api(tenant.keys.admin), platform.api(tenant.keys.member)]
  return { tenant, tenantId: encodeId('Tenant', tenant.tenant.id), admin, member }
}

async function limitsOf(api: Api, tenantId: string | null = null) {
  const { quota } = await api.data(quotaQuery, { tenantId })
  return { plan: quota.plan, ...Object.fromEntries(quota.limits.map(({ limit, ...rest }) => [limit, rest])) }
}

describe('quota', () => {
  it('shows staff and operators every limit, and what is used of it', async () => {
    const { member, tenantId } = await newcomer()
    await say(member, 'Hi.')
    const limits = await limitsOf(member)
    expect(limits).toMatchObject({
      plan: 'PRO',
      MESSAGES_PER_MINUTE: { max: 60, used: 1, reserved: 0, remaining: 59, resetAt: expect.any(String) },
      MESSAGES_PER_DAY: { max: 5_000, used: 1, remaining: 4_999, resetAt: expect.stringMatching(/T00:00:00.000Z$/) },
      TOKENS_PER_MESSAGE: { max: 8_000, used: 0, remaining: 8_000, resetAt: null },
      CONCURRENT_SESSIONS: { max: 50, resetAt: null },
      MONTHLY_TOKENS: { max: 10_000_000, resetAt: expect.stringMatching(/-01T00:00:00.000Z$/) },
    })
    expect(await limitsOf(operator, tenantId)).toMatchObject({ plan: 'PRO', MESSAGES_PER_DAY: { used: 1 } })
  })

  it('is not for end users, and operators have to say whose', async () => {
    const codeOf = async (api: Api, tenantId: string | null) =>
      (await api.ask(quotaQuery, { tenantId })).errors?.[0]?.extensions?.['code']
    expect(await codeOf(platform.api(platform.acme.keys.endUser), null)).toBe('FORBIDDEN')
    expect(await codeOf(operator, null)).toBe('BAD_USER_INPUT')
    expect(await codeOf(operator, 'nonsense')).toBe('NOT_FOUND')
    expect(await codeOf(platform.api(platform.acme.keys.admin), encodeId('Tenant', platform.globex.tenant.id))).toBe('NOT_FOUND')
  })
})

describe('quotaChanged', () => {
  it('shows what is used at once, and what messages and operators change', async () => {
    const { member, tenantId } = await newcomer()
    const conversationId = await begin(member)
    const values = member.follow(quotaChangedSubscription)
    const dayOf = async () => {
      const { quotaChanged } = (await values.next()).value ?? {}
      const day = quotaChanged?.limits.find((each: { limit: string }) => each.limit === 'MESSAGES_PER_DAY')
      return [quotaChanged?.plan, day?.max, day?.used]
    }
    const until = async (expected: unknown[]) => {
      for (let value = await dayOf(); value.join() !== expected.join(); value = await dayOf());
    }
    expect(await dayOf()).toEqual(['PRO', 5_000, 0])
    await say(member, 'Hi.', conversationId)
    await until(['PRO', 5_000, 1])
    await operator.data(changePlanMutation, { input: { tenantId, plan: 'ENTERPRISE' } })
    await until(['ENTERPRISE', 50_000, 1])
    await operator.data(setQuotaOverrideMutation, {
      input: { tenantId, limit: 'MESSAGES_PER_DAY', max: 7, reason: 'A trial.' },
    })
    await until(['ENTERPRISE', 7, 1])
    await values.return?.()
  })
})

describe('an override', () => {
  const override = { limit: 'MESSAGES_PER_DAY', max: 1, reason: 'A trial.' } as const

  it('holds with the next message, until it is cleared or ends', async () => {
    const { member, tenantId } = await newcomer()
    const conversationId = await begin(member)
    const send = async () => {
      const { sendMessage } = await member.data(limitedMessageMutation, { input: { conversationId, content: 'Hi.' } })
      return sendMessage.__typename
    }
    expect(await send()).toBe('SendMessagePayload')
    await operator.data(setQuotaOverrideMutation, { input: { tenantId, ...override } })
    expect(await send()).toBe('QuotaExceeded')
    await operator.data(clearQuotaOverrideMutation, { input: { tenantId, limit: override.limit, reason: 'It is over.' } })
    expect(await send()).toBe('SendMessagePayload')
    const expiresAt = new Date(platform.story.ports.now() + 3_600_000).toISOString()
    const set = await operator.data(setQuotaOverrideMutation, { input: { tenantId, ...override, expiresAt } })
    expect(set.setQuotaOverride).toMatchObject({ override: { ...override, expiresAt } })
    expect(await send()).toBe('QuotaExceeded')
    platform.story.advance(3_600_000)
    expect(await send()).toBe('SendMessagePayload')
  })

  it.each([
    ['max', { max: 0 }],
    ['max', { max: -5 }],
    ['max', { max: 10n ** 30n }],
    ['max', { limit: 'TOKENS_PER_MESSAGE', max: 1_000_001 }],
    ['expiresAt', { expiresAt: '2020-01-01T00:00:00Z' }],
    ['reason', { reason: ' ' }],
  ] as const)('that is absurd is refused at %s: %o', async (path, change) => {
    const input = { tenantId: encodeId('Tenant', platform.acme.tenant.id), ...override, ...change }
    const { setQuotaOverride } = await operator.data(setQuotaOverrideMutation, {
      input: { ...input, max: typeof input.max === 'bigint' ? (String(input.max) as never) : input.max },
    })
    expect(setQuotaOverride).toMatchObject({ __typename: 'ValidationProblem', path: [path] })
  })

  it('of a limit or plan that is not there is bad input', async () => {
    const tenantId = encodeId('Tenant', platform.acme.tenant.id)
    const bad = [
      await operator.ask(setQuotaOverrideMutation, { input: { tenantId, ...override, limit: 'NONE' as never } }),
      await operator.ask(changePlanMutation, { input: { tenantId, plan: 'PLATINUM' as never } }),
    ]
    expect(bad.map(({ errors }) => errors?.[0]?.extensions?.['code'])).toEqual(['BAD_USER_INPUT', 'BAD_USER_INPUT'])
  })
})

describe('the settings of a tenant', () => {
  const defaults = {
    ...{ timeZone: 'UTC', quotaThresholds: [80, 95, 100], budgetBehaviour: 'END', downgradeModel: null, downgradeAt: 95 },
  }

  it('are changed by its admins, and shown to its staff and operators', async () => {
    const { admin, member, tenantId } = await newcomer()
    expect((await member.data(tenantSettingsQuery, { id: null })).tenant?.settings).toEqual(defaults)
    const input = {
      timeZone: 'Asia/Kathmandu',
      quotaThresholds: [1, 100],
      budgetBehaviour: 'PAUSE',
      downgradeModel: 'gpt-4o-mini',
    } as const
    await admin.data(updateTenantSettingsMutation, { input: { ...input, quotaThresholds: [...input.quotaThresholds] } })
    const changed = { ...defaults, ...input }
    for (const [api, id] of [[member, null] as const, [operator, tenantId] as const])
      expect((await api.data(tenantSettingsQuery, { id })).tenant?.settings).toEqual(changed)
    const { MESSAGES_PER_DAY: day } = (await limitsOf(member)) as unknown as Record<string, { resetAt: string }>
    expect(day?.resetAt).toMatch(/T18:15:00.000Z$/)
    const { updateTenantSettings } = await admin.data(updateTenantSettingsMutation, { input: { downgradeModel: null } })
    expect(updateTenantSettings).toMatchObject({ tenant: { settings: { ...changed, downgradeModel: null } } })
  })

  it.each([
    ['timeZone', { timeZone: 'Mars/Olympus' }],
    ['quotaThresholds', { quotaThresholds: [0] }],
    ['quotaThresholds', { quotaThresholds: [101] }],
    ['quotaThresholds', { quotaThresholds: [80, 80] }],
    ['quotaThresholds', { quotaThresholds: [95, 80] }],
    ['quotaThresholds', { quotaThresholds: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] }],
    ['downgradeModel', { downgradeModel: 'no model' }],
    ['downgradeAt', { downgradeAt: 0 }],
  ])('are refused at %s: %o', async (path, input) => {
    const { updateTenantSettings } = await platform.api(platform.acme.keys.admin).data(updateTenantSettingsMutation, { input })
    expect(updateTenantSettings).toMatchObject({ __typename: 'ValidationProblem', path: [path] })
  })
})
