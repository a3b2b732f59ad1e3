import { afterEach, expect, test } from 'vitest'
import { Metrics, type MetricsOptions } from '../../src/server/metrics.ts'
import { limitedMessageMutation } from '../operations/quota.ts'
import { begin } from '../support/conversing.ts'
import { limitedTenant } from '../support/limits.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform

afterEach(() => platform.stop())

async function start(options: Partial<MetricsOptions>): Promise<Metrics> {
  const metrics = new Metrics({ token: null, local: true, runs: () => 0, ...options })
  platform = await startTestPlatform({ metrics })
  return metrics
}

const get = (headers: Record<string, string> = {}) => fetch(`${platform.url}/metrics`, { headers })

test('say how much was refused by which limit, and of no tenant which', async () => {
  const metrics = await start({ runs: () => 7 })
  const { tenant, keys } = await limitedTenant(platform.story, { MESSAGES_PER_DAY: 1 })
  const api = platform.api(keys.member)
  const conversationId = await begin(api)
  for (const content of ['One.', 'Two.', 'Three.']) {
    await api.ask(limitedMessageMutation, { input: { conversationId, content } })
  }
  metrics.drifted([30, -12])

  const response = await get()
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
  const lines = (await response.text()).split('\n')
  expect(lines).toEqual(
    expect.arrayContaining([
      'bulkhead_refused_messages_total{limit="MESSAGES_PER_DAY"} 2',
      'bulkhead_refused_messages_total{limit="MONTHLY_TOKENS"} 0',
      'bulkhead_quota_drift_tokens 42',
      'bulkhead_quota_drift_tenants 2',
      'bulkhead_runs 7',
      'bulkhead_streams 0',
    ]),
  )
  expect(lines.join('\n')).not.toContain(tenant.id)
})

test('are shown to whoever has the token, and to nobody else', async () => {
  await start({ token: 'for-the-scraper' })
  expect((await get({ authorization: 'Bearer for-the-scraper' })).status).toBe(200)
  for (const authorization of ['Bearer for-the-scrapes', 'Bearer for', 'for-the-scraper', '']) {
    const { status } = await get({ authorization })
    expect(status).toBe(404)
  }
  expect((await get()).status).toBe(404)
})

test('are not there in production without a token', async () => {
  await start({ local: false })
  expect((await get()).status).toBe(404)
})
