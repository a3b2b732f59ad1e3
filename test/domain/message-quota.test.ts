import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QuotaLimit } from '../../src/data/generated/enums.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { BudgetExhausted, Conflict, LimitReached, NotFound, QuotaExceeded, Unavailable } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { sendMessage } from '../../src/domain/message.ts'
import { readQuota } from '../../src/domain/quota.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { limitedTenant } from '../support/limits.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

/** A tenant with these limits in the place of its plan's, and the member's scope. */
async function limited(
  limits: Partial<Record<QuotaLimit, number>>,
): Promise<{ tenant: TenantStory; member: Scope; conversationId: string }> {
  const tenant = await limitedTenant(story, limits)
  const member = await story.signIn(tenant.keys.member)
  return { tenant, member, conversationId: (await createConversation(member, {})).id }
}

const say = (scope: Scope, conversationId: string, more: object = {}) =>
  sendMessage(scope, { conversationId, content: 'Hi.', ...more })

async function refusalOf(sending: Promise<unknown>): Promise<LimitReached> {
  const error = await sending.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof LimitReached)) throw new Error('It was not refused by a limit.', { cause: error })
  return error
}

/** Ends the tenant's runs as a worker would, as far as sessions go. */
async function endRuns(scope: Scope): Promise<void> {
  const runs = await scope.db.run.findMany({ where: { finishedAt: null } })
  await scope.db.run.updateMany({ where: { finishedAt: null }, data: { status: 'COMPLETED', finishedAt: new Date() } })
  for (const { id } of runs) await scope.ports.admission.settle(scope.tenant.id, { runId: id, calls: [], leave: 1 })
}

describe('sendMessage', () => {
  it('says what the tenant has used since', async () => {
    const { member, conversationId } = await limited({})
    const { quota } = await say(member, conversationId)
    expect(quota).toMatchObject({ minute: 1, today: 1, sessions: 1, spent: 0, reserved: expect.any(Number) })
    expect(quota?.reserved).toBeGreaterThan(2)
    expect(quota?.terms.limits).toEqual({
      ...{ MESSAGES_PER_MINUTE: 60, MESSAGES_PER_DAY: 5_000, TOKENS_PER_MESSAGE: 8_000 },
      ...{ CONCURRENT_SESSIONS: 50, MONTHLY_TOKENS: 10_000_000 },
    })
  })

  it.each([
    ['MESSAGES_PER_MINUTE', QuotaExceeded],
    ['MESSAGES_PER_DAY', QuotaExceeded],
    ['CONCURRENT_SESSIONS', QuotaExceeded],
  ] as const)('is refused by %s, which counts what all of the tenant say', async (limit, problem) => {
    const { tenant, member, conversationId } = await limited({ [limit]: 2 })
    const endUser = await story.signIn(tenant.keys.endUser)
    await say(member, conversationId)
    await say(endUser, (await createConversation(endUser, {})).id)
    const refused = await refusalOf(say(member, conversationId))
    expect(refused).toBeInstanceOf(problem)
    expect(refused.refusal).toMatchObject({ limit, max: 2, remaining: 0 })
    expect(await member.db.run.count()).toBe(2)
    const quota = await readQuota(member)
    expect([quota.minute, quota.today, quota.sessions]).toEqual([2, 2, 2])
  })

  it.each([
    ['MESSAGES_PER_MINUTE', 66_000],
    ['MESSAGES_PER_DAY', 26 * 3_600_000],
  ] as const)('succeeds when a client waited for as long as %s said, and no sooner', async (limit, most) => {
    const { member, conversationId } = await limited({ [limit]: 2 })
    await say(member, conversationId)
    story.advance(7_000)
    await say(member, conversationId)
    await endRuns(member)
    const seconds = (await refusalOf(say(member, conversationId))).retryAfterSeconds ?? 0
    expect(seconds).toBeGreaterThan(1)
    expect(seconds * 1_000).toBeLessThan(most)
    story.advance((seconds - 1.5) * 1_000)
    await refusalOf(say(member, conversationId))
    story.advance(1_500)
    await say(member, conversationId)
  })

  it("is refused by the month's tokens until the next month of the tenant's zone", async () => {
    const { tenant, conversationId } = await limited({ MONTHLY_TOKENS: 2_000 })
    await updateTenantSettings(tenant.admin, { timeZone: 'Asia/Kathmandu' })
    const member = await story.signIn(tenant.keys.member)
    const usage = {
      ...{ id: newId(), tenantId: member.tenant.id, conversationId, runId: newId(), agentId: member.tenant.defaultAgentId ?? '' },
      ...{ configVersion: 1, turn: 0, call: 0, attempt: 1, model: 'm', inputTokens: 1_500, cachedInputTokens: 0 },
      ...{ outputTokens: 400, reasoningTokens: 0, estimated: false, costNanos: 0n, currency: 'USD' },
    }
    await member.db.usageRecord.create({ data: { ...usage, createdAt: new Date(story.ports.now()) } })
    const refused = await refusalOf(say(member, conversationId))
    expect(refused).toBeInstanceOf(BudgetExhausted)
    expect(refused.refusal).toMatchObject({ limit: 'MONTHLY_TOKENS', max: 2_000, remaining: 100 })
    const resetAt = new Date(refused.refusal.retryAt ?? 0)
    expect(resetAt.toLocaleString('sv', { timeZone: 'Asia/Kathmandu' })).toMatch(/-01 00:00:00$/)
    story.advance(((refused.retryAfterSeconds ?? 0) - 2) * 1_000)
    await refusalOf(say(member, conversationId))
    story.advance(2_000)
    await say(member, conversationId)
  })

  it('refuses a message that is too long, whenever it comes', async () => {
    const { member, conversationId } = await limited({ TOKENS_PER_MESSAGE: 10 })
    const refused = await refusalOf(say(member, conversationId, { content: 'word '.repeat(50) }))
    expect(refused.refusal).toMatchObject({ limit: 'TOKENS_PER_MESSAGE', max: 10, retryAt: null })
    expect(refused.retryAfterSeconds).toBeNull()
    await say(member, conversationId)
  })

  it('counts for nothing when it fails afterwards', async () => {
    const { member, conversationId } = await limited({ MESSAGES_PER_MINUTE: 2 })
    await say(member, conversationId)
    const before = await readQuota(member)
    for (let attempt = 0; attempt < 5; attempt++) {
      await expect(say(member, newId())).rejects.toThrow(NotFound)
      await expect(say(member, conversationId, { whenBusy: 'REJECT' })).rejects.toThrow(Conflict)
    }
    const after = await readQuota(member)
    expect({ ...after, now: 0 }).toEqual({ ...before, now: 0 })
    await say(member, conversationId)
  })

  it('is refused with a time while the counters cannot be reached', async () => {
    const { member, conversationId } = await limited({})
    const away = async () => {
      throw new Unavailable('The counters are away.', 1)
    }
    const ports = { ...member.ports, admission: { ...emptyAdmission(), admit: away } }
    await expect(say({ ...member, ports }, conversationId)).rejects.toMatchObject({ retryAfterSeconds: 1 })
    expect(await member.db.run.count()).toBe(0)
  })
})

function emptyAdmission() {
  const admission = new MemoryAdmission({ onError: story.ports.report })
  return {
    admit: admission.admit.bind(admission),
    seed: admission.seed.bind(admission),
    release: admission.release.bind(admission),
    hold: admission.hold.bind(admission),
    settle: admission.settle.bind(admission),
    doubt: admission.doubt.bind(admission),
    renew: admission.renew.bind(admission),
    read: admission.read.bind(admission),
    subscribe: admission.subscribe.bind(admission),
    count: admission.count.bind(admission),
    erase: admission.erase.bind(admission),
  }
}

describe('an idempotency key', () => {
  it('makes one message of a hundred that come at once, and all are answered alike', { timeout: 60_000 }, async () => {
    const { member, conversationId } = await limited({ MESSAGES_PER_MINUTE: 1, CONCURRENT_SESSIONS: 1 })
    const sent = await Promise.all(Array.from({ length: 100 }, () => say(member, conversationId, { idempotencyKey: 'once' })))
    expect(new Set(sent.map(({ run, userMessage }) => `${run.id} ${userMessage.id}`)).size).toBe(1)
    expect(await member.db.run.count()).toBe(1)
    expect(await readQuota(member)).toMatchObject({ minute: 1, today: 1, sessions: 1 })
    await expect(say(member, conversationId, { idempotencyKey: 'once', content: 'Otherwise.' })).rejects.toThrow(Conflict)
    expect(await say(member, conversationId, { idempotencyKey: 'once' })).toMatchObject({
      run: { id: sent[0]?.run.id },
      quota: null,
    })
  })

  it('that came with another input at the same time makes a conflict, and one message', async () => {
    const { member, conversationId } = await limited({})
    const sending = ['One.', 'Other.'].map((content) => say(member, conversationId, { idempotencyKey: 'both', content }))
    const settled = await Promise.allSettled(sending)
    expect(settled.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(settled.find(({ status }) => status === 'rejected')).toMatchObject({ reason: expect.any(Conflict) })
    expect(await readQuota(member)).toMatchObject({ minute: 1, today: 1, sessions: 1 })
  })

  it('is served the run that was admitted for it and not stored', async () => {
    const { member, conversationId } = await limited({ MESSAGES_PER_MINUTE: 1 })
    const once = { idempotencyKey: 'resumed' }
    // The process ends between the admission and the transaction.
    let admitted = ''
    const lost = new Error('The process ended.')
    const db = new Proxy(member.db, {
      get: (target, name) => {
        if (name !== '$transaction') return Reflect.get(target, name)
        return async () => {
          throw lost
        }
      },
    })
    const admission = emptyAdmission()
    const dying = {
      ...admission,
      admit: async (...args: Parameters<typeof admission.admit>) => {
        const decision = await admission.admit(...args)
        if (decision.outcome === 'admitted') admitted = decision.runId
        return decision
      },
      release: () => new Promise<never>(() => undefined),
    }
    void say({ ...member, db, ports: { ...member.ports, admission: dying } }, conversationId, once)
    await expect.poll(() => admitted).not.toBe('')
    const { run, quota } = await say({ ...member, ports: { ...member.ports, admission } }, conversationId, once)
    expect(run.id).toBe(admitted)
    expect(quota).toMatchObject({ minute: 1, today: 1 })
  })
})

describe('counters that were lost', () => {
  it('are rebuilt from Postgres before anything is admitted, also for an end user', async () => {
    const { tenant, member, conversationId } = await limited({ MESSAGES_PER_MINUTE: 2 })
    await say(member, conversationId)
    await say(member, conversationId)
    await member.ports.admission.erase(member.tenant.id)
    const endUser = await story.signIn(tenant.keys.endUser)
    const { id } = await createConversation(endUser, {})
    expect((await refusalOf(say(endUser, id))).refusal.limit).toBe('MESSAGES_PER_MINUTE')
    expect(await readQuota(endUser)).toMatchObject({ minute: 2, today: 2, sessions: 2 })
  })

  it('are rebuilt once for a crowd', async () => {
    const { member, conversationId } = await limited({ MESSAGES_PER_MINUTE: 100 })
    await member.ports.admission.erase(member.tenant.id)
    let reads = 0
    const { quotaSource } = member
    const counted = {
      ...quotaSource,
      counts: (...args: Parameters<typeof quotaSource.counts>) => {
        reads += 1
        return quotaSource.counts(...args)
      },
    }
    await Promise.all(Array.from({ length: 20 }, () => say({ ...member, quotaSource: counted }, conversationId)))
    expect(reads).toBe(1)
    expect(await readQuota(member)).toMatchObject({ minute: 20, today: 20, sessions: 20 })
  })
})
