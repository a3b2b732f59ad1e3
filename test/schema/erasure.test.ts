import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeId } from '../../src/schema/global-id.ts'
import { eraseTenantMutation, erasureQuery } from '../operations/erasure.ts'
import type { Api } from '../support/api.ts'
import { payload, say } from '../support/conversing.ts'
import { stallsAfter } from '../support/fake-upstream.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { signIn } from '../support/raw-socket.ts'
import type { TenantStory } from '../support/story.ts'

let platform: TestPlatform
let operator: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  operator = platform.api(await operatorKey(platform.story))
})

afterAll(() => platform.stop())

const idOf = ({ tenant }: TenantStory) => encodeId('Tenant', tenant.id)
const inputFor = (story: TenantStory) => ({ input: { tenantId: idOf(story), confirmName: story.tenant.name } })

describe('eraseTenant', () => {
  it('is for operators, as certificates are', { tags: ['rule-16'] }, async () => {
    const { acme } = platform
    for (const key of Object.values(acme.keys)) {
      const { eraseTenant } = await platform.api(key).data(eraseTenantMutation, inputFor(acme))
      expect(eraseTenant.__typename).toBe('Forbidden')
    }
    const { errors } = await platform.api(acme.keys.admin).ask(erasureQuery, { id: idOf(acme) })
    expect(errors).toMatchObject([{ path: ['tenant', 'erasure'], extensions: { code: 'FORBIDDEN' } }])
    expect((await operator.data(erasureQuery, { id: idOf(acme) })).tenant).toMatchObject({ status: 'ACTIVE', erasure: null })
  })

  it('says which input names no tenant, or not by its name', async () => {
    const { acme } = platform
    const wrong = await operator.data(eraseTenantMutation, { input: { tenantId: idOf(acme), confirmName: 'acme' } })
    expect(payload(wrong.eraseTenant, 'ValidationProblem').path).toEqual(['confirmName'])
    for (const tenantId of [encodeId('Tenant', acme.admin.actor.id), encodeId('Run', acme.tenant.id), 'nonsense']) {
      const { eraseTenant } = await operator.data(eraseTenantMutation, { input: { tenantId, confirmName: acme.tenant.name } })
      expect(eraseTenant.__typename).toBe('NotFound')
    }
  })

  it("ends the tenant's sockets within a second, answers what is under way cleanly, and then its certificate", {
    tags: ['rule-17'],
  }, async () => {
    const story = await platform.story.tenant()
    const { keys } = story
    platform.upstream.otherwise(stallsAfter('Words without end'))
    const member = platform.api(keys.member)
    await say(member, 'Talk to me.')
    const socket = await signIn(platform.url, keys.endUser)
    let isOver = false
    const senders = Array.from({ length: 2 }, async () => {
      const codes: unknown[] = []
      while (!isOver) {
        await say(member, 'Hello?').catch((error: Error) =>
          codes.push(/"code":"(\w+)"/.exec(error.message)?.[1] ?? error.message),
        )
      }
      return codes
    })
    const closed = socket.closed.then((code) => ({ code, at: Date.now() }))
    const { eraseTenant } = await operator.data(eraseTenantMutation, inputFor(story))
    const { code, at } = await closed
    expect(code).toBe(4401)
    isOver = true
    const codes = new Set((await Promise.all(senders)).flat())
    const clean = ['SERVICE_UNAVAILABLE', 'UNAUTHENTICATED', 'NOT_FOUND']
    expect([...codes].filter((code) => !clean.includes(String(code)))).toEqual([])

    const { certificate } = payload(eraseTenant, 'EraseTenantPayload')
    expect(certificate).toMatchObject({ tenantId: idOf(story), requestedBy: 'Olga', finishedAt: expect.any(String) })
    expect(at - Date.parse(certificate.requestedAt)).toBeLessThan(1_000)
    expect(certificate.found).toContainEqual({ kind: 'members', count: 2 })
    expect(certificate.retained.map(({ kind }) => kind)).toEqual(['tenant_prices', 'usage_records'])
    const { tenant } = await operator.data(erasureQuery, { id: idOf(story) })
    expect(tenant).toEqual({
      status: 'ERASED',
      name: `erased-${story.tenant.id}`,
      erasure: { finishedAt: certificate.finishedAt },
    })
    expect(platform.log().filter(({ level }) => Number(level) >= 50)).toEqual([])
  })
})
