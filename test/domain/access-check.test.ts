import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createConversation } from '../../src/domain/conversation.ts'
import {
  Conflict,
  NotFound,
  type Problem,
  QuotaExceeded,
  Unauthenticated,
  Unavailable,
  ValidationProblem,
} from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type SendMessageInput, sendMessage } from '../../src/domain/message.ts'
import { readQuota } from '../../src/domain/quota.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { updateTenantSettings } from '../../src/domain/tenant-settings.ts'
import { adminQuery } from '../support/database-url.ts'
import { limitedTenant, setLimits } from '../support/limits.ts'
import { follow, shownAfter, startWorker, until } from '../support/run-story.ts'
import { says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

/** A member's scope that was made a while ago, how often it was asked what it is now, and a conversation. */
async function earlier(limits = {}) {
  const { keys, tenant } = await limitedTenant(story, limits)
  const member = await story.signIn(keys.member)
  const asked = { count: 0 }
  const renew = () => {
    asked.count += 1
    return member.renew()
  }
  const scope: Scope = { ...member, renew }
  const { id } = await createConversation(member, {})
  const say = (more: Partial<SendMessageInput> = {}) => sendMessage(scope, { conversationId: id, content: 'Hi.', ...more })
  const admin = await story.signIn(keys.admin)
  return { tenant, admin, member, asked, say, conversationId: id }
}

type Earlier = Awaited<ReturnType<typeof earlier>>

const revoke = (member: Scope) =>
  adminQuery(story.database.adminUrl, `update api_keys set revoked_at = now() where id = '${member.actor.id}'`)

describe('a message that is sent with what was known a while ago', { tags: ['rule-17'] }, () => {
  it('costs no look at the credentials while nothing of them has changed', async () => {
    const { asked, say } = await earlier()
    for (let time = 0; time < 2; time++) expect((await say()).run.status).toBe('QUEUED')
    expect(asked.count).toBe(0)
  })

  it.each<[string, Partial<SendMessageInput>]>([
    ['as it is', {}],
    ['under an idempotency key', { idempotencyKey: 'once' }],
    ['that would be refused while the conversation is busy', { whenBusy: 'REJECT' }],
    ['that interrupts what is under way', { whenBusy: 'INTERRUPT' }],
  ])('is refused when the key was revoked since, and leaves nothing: %s', async (_case, more) => {
    const { member, admin, say } = await earlier()
    await revoke(member)
    await expect(say(more)).rejects.toThrow(Unauthenticated)
    expect([await admin.db.message.count(), await admin.db.run.count()]).toEqual([0, 0])
    expect(await admin.db.idempotencyKey.count({ where: { mutation: 'sendMessage' } })).toBe(0)
    expect(await readQuota(admin)).toMatchObject({ minute: 0, today: 0, sessions: 0, reserved: 0 })
  })

  it('is not answered again either, when its idempotency key is repeated', async () => {
    const { member, say } = await earlier()
    await say({ idempotencyKey: 'once' })
    await revoke(member)
    await expect(say({ idempotencyKey: 'once' })).rejects.toThrow(Unauthenticated)
  })

  const archive = ({ tenant }: Earlier) =>
    adminQuery(story.database.adminUrl, `update agents set archived_at = now() where tenant_id = '${tenant.id}'`)

  it.each<
    [
      string,
      {
        limits?: object
        before?: (earlier: Earlier) => Promise<unknown>
        more?: Partial<SendMessageInput>
        problem: new (...given: never[]) => Problem
      },
    ]
  >([
    ['a limit is reached', { limits: { MESSAGES_PER_DAY: 1 }, before: ({ say }) => say(), problem: QuotaExceeded }],
    ['there is no such conversation', { more: { conversationId: newId() }, problem: NotFound }],
    ['the conversation is busy', { before: ({ say }) => say(), more: { whenBusy: 'REJECT' }, problem: Conflict }],
    ['its agent is archived', { before: archive, problem: Conflict }],
    [
      'its idempotency key was used for another',
      { before: ({ say }) => say({ content: 'Ho.', idempotencyKey: 'k' }), more: { idempotencyKey: 'k' }, problem: Conflict },
    ],
    ['it is empty', { more: { content: ' ' }, problem: ValidationProblem }],
  ])(
    'tells who has no access any more nothing of why it would be refused: %s',
    async (_case, { limits, before, more, problem }) => {
      const known = await earlier(limits)
      await before?.(known)
      await expect(known.say(more)).rejects.toThrow(problem)
      await revoke(known.member)
      await expect(known.say(more)).rejects.toThrow(Unauthenticated)
    },
  )

  it.each([
    ['SUSPENDED', null],
    ['ERASED', 'now()'],
  ])('is refused when the tenant is %s by now', async (status, fencedAt) => {
    const { tenant, admin, say } = await earlier()
    const become = `update tenants set status = '${status}', fenced_at = ${fencedAt} where id = '${tenant.id}'`
    await adminQuery(story.database.adminUrl, become)
    await expect(say()).rejects.toThrow(Unauthenticated)
    expect(await admin.db.run.count()).toBe(0)
  })

  it('is sent under the limits that there are now', async () => {
    const { tenant, say, asked, conversationId } = await earlier({ MESSAGES_PER_DAY: 1 })
    await say()
    await expect(say()).rejects.toThrow(QuotaExceeded)
    await setLimits(story, tenant.id, { MESSAGES_PER_DAY: 3 })
    await say()
    await say({ conversationId })
    await setLimits(story, tenant.id, { MESSAGES_PER_DAY: 2 })
    await expect(say()).rejects.toThrow(QuotaExceeded)
    expect(asked.count).toBeGreaterThan(2)
  })

  it('is sent once the tenant is moved, by who found it on its way, and not while it is', async () => {
    const { member, conversationId, say } = await earlier()
    const set = (status: string) =>
      adminQuery(story.database.adminUrl, `update tenants set status = '${status}' where id = '${member.tenant.id}'`)
    await set('MOVING')
    const found = await member.renew()
    expect(found?.tenant.status).toBe('MOVING')
    for (const send of [say, () => sendMessage(found as Scope, { conversationId, content: 'Hi.' })])
      await expect(send()).rejects.toThrow(
        new Unavailable('The tenant is being moved to another database. Try again shortly.', 5),
      )
    expect(await member.db.message.count()).toBe(0)
    await set('ACTIVE')
    expect((await sendMessage(found as Scope, { conversationId, content: 'Hi.' })).run.status).toBe('QUEUED')
  })

  it('is not sent with a key that has expired since it was looked at', async () => {
    const { member, conversationId } = await earlier()
    const inAnHour = new Date(Date.now() + 3_600_000).toISOString()
    await adminQuery(story.database.adminUrl, `update api_keys set expires_at = '${inAnHour}' where id = '${member.actor.id}'`)
    const looked = (await member.renew()) as Scope
    const say = () => sendMessage(looked, { conversationId, content: 'Hi.' })
    await say()
    story.advance(3_600_001)
    onTestFinished(() => story.advance(-3_600_001))
    await expect(say()).rejects.toThrow(Unauthenticated)
    expect(await member.db.message.count()).toBe(1)
  })

  it('notifies nobody of a limit that is reached by who has no access any more', async () => {
    const { member, admin, say, conversationId } = await earlier({ MESSAGES_PER_DAY: 1 })
    await revoke(member)
    await expect(say()).rejects.toThrow(Unauthenticated)
    await delay(100)
    expect(await admin.db.notification.count()).toBe(0)
    await sendMessage(admin, { conversationId, content: 'Hi.' })
    await until(async () => (await admin.db.notification.count()) === 3)
  })

  it('is answered under the settings that there are now', async () => {
    const { admin, member, say } = await earlier()
    await using _ = await startWorker(story, { model: scriptedModel([says('Hello.')]) })
    await updateTenantSettings(admin, { downgradeModel: 'gpt-4o-mini', downgradeAt: 1 })
    const { run } = await say()
    expect(run.status).toBe('RUNNING')
    expect(shownAfter(await follow(member, run.id))).toBe('Hello.')
  })

  it('still finds no conversation of another', async () => {
    const { say } = await earlier()
    const stranger = await earlier()
    await expect(say({ conversationId: stranger.conversationId })).rejects.toThrow(NotFound)
  })

  it('is given up when the tenant changes each time that it is looked at', async () => {
    const { member, conversationId } = await earlier()
    const restless = (scope: Scope): Scope => ({
      ...scope,
      async renew() {
        const now = await member.renew()
        await adminQuery(story.database.adminUrl, `update tenants set name = name where id = '${member.tenant.id}'`)
        return now && restless(now)
      },
    })
    await adminQuery(story.database.adminUrl, `update tenants set name = name where id = '${member.tenant.id}'`)
    const sending = sendMessage(restless(member), { conversationId, content: 'Hi.' })
    await expect(sending).rejects.toThrow(Unavailable)
    expect(await readQuota(member)).toMatchObject({ minute: 0, today: 0, sessions: 0, reserved: 0 })
  })
})
