import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createConversation } from '../../src/domain/conversation.ts'
import { QuotaExceeded, Unavailable } from '../../src/domain/errors.ts'
import { sendMessage } from '../../src/domain/message.ts'
import { measureDrift, mendDrift } from '../../src/domain/quota-drift.ts'
import { RedisAdmission } from '../../src/redis/admission.ts'
import { connectRedis, type RedisConnection } from '../../src/redis/connection.ts'
import { limitedTenant } from '../support/limits.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'
import { type Story, startStory } from '../support/story.ts'

describe.skipIf(!redisAvailable)(redisSuite('while counters are in Redis'), () => {
  let server: RedisServer
  let redis: RedisConnection
  let story: Story

  beforeAll(async () => {
    server = await startRedisServer()
    redis = await connectRedis(server.target, { onError: () => undefined })
    story = await startStory({ ports: { admission: new RedisAdmission(redis) } })
  })

  afterAll(async () => {
    await story.close()
    await redis.close()
    await server.stop()
  })

  async function speaker(limits: Parameters<typeof limitedTenant>[1]) {
    const { keys } = await limitedTenant(story, limits)
    const member = await story.signIn(keys.member)
    const { id: conversationId } = await createConversation(member, {})
    return { member, say: () => sendMessage(member, { conversationId, content: 'Hi.' }) }
  }

  const flush = () => Promise.all(redis.masters().map((master) => master.flushall()))

  it('limits hold though all of it is lost between messages', { timeout: 60_000 }, async () => {
    const { member, say } = await speaker({ MESSAGES_PER_MINUTE: 3 })
    for (let message = 1; message <= 3; message++) {
      expect((await say()).quota).toMatchObject({ minute: message, today: message, sessions: message })
      await flush()
    }
    await expect(say()).rejects.toThrow(QuotaExceeded)
    expect(await member.db.run.count()).toBe(3)
    expect(await measureDrift(member)).toBe(0)
  })

  it('messages are refused with a time while it does not answer, and nobody waits', { timeout: 60_000 }, async () => {
    const { member, say } = await speaker({})
    await say()
    server.pause()
    try {
      const began = performance.now()
      await expect(say()).rejects.toThrow(Unavailable)
      // Its bound is a second; the rest is for a busy machine.
      expect(performance.now() - began).toBeLessThan(5_000)
    } finally {
      server.resume()
    }
    expect(await member.db.run.count()).toBe(1)
    await expect.poll(() => say().then(() => 'sent', String), { timeout: 20_000 }).toBe('sent')
  })

  it('what counters and ledger do not agree on is measured, and mended', async () => {
    const { member, say } = await speaker({})
    const { run } = await say()
    const call = { id: `${run.id}/0/1` as const, tokens: 1_000, at: story.ports.now(), isOurs: true }
    const { admission } = member.ports
    const held = await admission.hold(member.tenant.id, {
      ...{ version: member.tenant.limitsVersion, runId: run.id, call: call.id, tokens: 1_000, least: 1_000 },
    })
    expect(held.outcome).toBe('held')
    await admission.settle(member.tenant.id, { runId: run.id, calls: [call], leave: 1 })
    expect(await measureDrift(member)).toBe(1_000)
    expect(await mendDrift(story)).toEqual([{ tenantId: member.tenant.id, tokens: 1_000 }])
    expect(await measureDrift(member)).toBe(0)
  })
})
