import { afterAll, beforeAll, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { correctUsageMutation, usageQuery } from '../operations/usage.ts'
import type { Api } from '../support/api.ts'
import { say } from '../support/conversing.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform

beforeAll(async () => {
  platform = await startTestPlatform()
})

afterAll(() => platform.stop())

const range = { from: '2026-01-01T00:00:00Z', to: '2027-01-01T00:00:00Z' }

it('usage: the calls, the conversation and the bill agree, for the tenant and for operators', async () => {
  const { tenant, keys } = await platform.story.tenant()
  const member = platform.api(keys.member)
  const { conversationId, runId } = await say(member, 'Hi.')
  for await (const _event of member.client.events('subscription ($id: ID!) { agentReply(runId: $id) { __typename } }', {
    id: runId,
  }));
  const now = new Date()
  const around = {
    from: new Date(now.getTime() - 3_600_000).toISOString(),
    to: new Date(now.getTime() + 3_600_000).toISOString(),
  }
  const variables = { range: around, groupBy: ['CONVERSATION', 'MODEL', 'CONFIG_VERSION'] as const }
  const { usage } = await member.data(usageQuery, { ...variables, groupBy: [...variables.groupBy] })
  expect(usage.total).toMatchObject({ calls: 1, estimated: false, cost: { formatted: expect.stringMatching(/^\$0\.0/) } })
  expect(usage.rows).toEqual([
    {
      ...{ hour: null, day: null, userId: null, conversationId, configVersion: 1, calls: 1 },
      ...{
        model: 'gpt-4o-mini',
        agentId: encodeId('Agent', tenant.defaultAgentId ?? ''),
        cost: { micros: usage.total.cost.micros },
      },
    },
  ])
  const operator = platform.api(await operatorKey(platform.story))
  const seen = await operator.data(usageQuery, { range: around, tenantId: encodeId('Tenant', tenant.id) })
  expect(seen.usage).toEqual({ total: usage.total, rows: [] })
})

it('usage: bad input and the wrong role are told what is wrong', async () => {
  const codeOf = async (api: Api, variables: object) =>
    (await api.ask(usageQuery, { range, ...variables })).errors?.[0]?.extensions?.['code']
  const { keys } = await platform.story.tenant()
  const [member, operator] = [platform.api(keys.member), platform.api(await operatorKey(platform.story))]
  expect(await codeOf(platform.api(keys.endUser), {})).toBe('FORBIDDEN')
  expect(await codeOf(member, { range: { from: range.to, to: range.from } })).toBe('BAD_USER_INPUT')
  expect(await codeOf(member, { range: { ...range, to: '2036-01-01T00:00:00Z' } })).toBe('BAD_USER_INPUT')
  expect(await codeOf(member, { groupBy: ['WEATHER'] })).toBe('BAD_USER_INPUT')
  expect(await codeOf(operator, {})).toBe('BAD_USER_INPUT')
  expect(await codeOf(operator, { tenantId: encodeId('Tenant', 'nobody') })).toBe('NOT_FOUND')
  expect(await codeOf(member, { tenantId: encodeId('Tenant', platform.acme.tenant.id) })).toBe('NOT_FOUND')
})

it('correctUsage: a call comes to what operators say, and nobody else may say it', async () => {
  const { tenant, keys } = await platform.story.tenant()
  const member = platform.api(keys.member)
  const { runId } = await say(member, 'Hi.')
  for await (const _event of member.client.events('subscription ($id: ID!) { agentReply(runId: $id) { __typename } }', {
    id: runId,
  }));
  const key = await operatorKey(platform.story)
  const tenantId = encodeId('Tenant', tenant.id)
  const hour = 3_600_000
  const around = {
    from: new Date(Date.now() - hour).toISOString(),
    to: new Date(Date.now() + hour).toISOString(),
  }
  const query = new URLSearchParams({ ...around, tenantId, format: 'json' })
  const exported = async () => {
    const response = await fetch(`${platform.url}/usage?${query}`, { headers: { authorization: `Bearer ${key}` } })
    return (await response.json()) as Record<string, unknown>[]
  }
  const [call = {}] = await exported()
  const usageRecordId = String(call['id'])
  const input = { tenantId, usageRecordId, outputTokens: 0, reasoningTokens: 0, reason: 'Nothing came.' }

  const refused = await platform.api(keys.admin).data(correctUsageMutation, { input })
  expect(refused.correctUsage).toMatchObject({ __typename: 'Forbidden' })
  const operator = platform.api(key)
  const { correctUsage } = await operator.data(correctUsageMutation, { input })
  expect(correctUsage).toMatchObject({
    __typename: 'CorrectUsagePayload',
    correction: {
      ...{ number: 1, inputTokens: 0, outputTokens: -Number(call['outputTokens']) },
      cost: { formatted: expect.stringMatching(/^-\$0\.0/) },
    },
    total: { calls: 1, inputTokens: call['inputTokens'], outputTokens: 0 },
  })
  const rows = await exported()
  expect(rows.map(({ correctsId }) => correctsId)).toEqual([null, usageRecordId])
  expect(correctUsage).toMatchObject({ correction: { usageRecordId: rows[1]?.['id'] } })
  const { usage } = await member.data(usageQuery, { range: around })
  expect(usage.total).toMatchObject({ calls: 1, outputTokens: 0 })
  const wrong = await operator.data(correctUsageMutation, { input: { ...input, usageRecordId: encodeId('Run', tenant.id) } })
  expect(wrong.correctUsage).toMatchObject({ code: 'NOT_FOUND' })
  const impossible = await operator.data(correctUsageMutation, { input: { ...input, reasoningTokens: 1 } })
  expect(impossible.correctUsage).toMatchObject({ code: 'VALIDATION', path: ['reasoningTokens'] })
})
