import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { TenantTransaction } from '../../src/data/tenant-scope.ts'
import { createConversation, deleteConversation } from '../../src/domain/conversation.ts'
import { Conflict, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { type Effect, idempotencyTtl, idempotent } from '../../src/domain/idempotency.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})
afterAll(() => story.close())

/** The effect of adding a conversation; counts how often it was tried. */
function addsConversation(scope: Scope) {
  const effect = {
    tries: 0,
    async perform(remember) {
      effect.tries++
      const id = newId()
      const agentId = scope.tenant.defaultAgentId ?? ''
      const work = async (tx: TenantTransaction) => {
        await remember(tx, id)
        await tx.conversation.create({ data: { id, tenantId: scope.tenant.id, agentId } })
        return id
      }
      // A crowd waits in line for the connections, on a machine that may be busy.
      return scope.db.$transaction(work, { maxWait: 10_000 })
    },
    replay: async (resultId) => resultId,
  } satisfies Effect<string> & { tries: number }
  return effect
}

const conversations = (scope: Scope) => scope.db.conversation.count()
const keys = (scope: Scope) => scope.db.idempotencyKey.count()

describe('a repeated call', () => {
  test('gets the first answer and has no second effect', async () => {
    const { admin } = await story.tenant()
    const input = { title: 'Once', idempotencyKey: newId() }
    const first = await createConversation(admin, input)
    expect(await createConversation(admin, input)).toEqual(first)
    expect(await conversations(admin)).toBe(1)
  })

  test('is the same whatever the order of its fields, and whether a field is null or absent', async () => {
    const { admin } = await story.tenant()
    const effect = addsConversation(admin)
    const call = (input: unknown) => idempotent(admin, { mutation: 'try', key: 'k', input }, effect)
    const first = await call({ a: 1, b: { c: [1n, null], d: new Date(0), e: null } })
    expect(await call({ b: { d: new Date(0), c: [1n, null] }, a: 1, f: undefined })).toBe(first)
    expect(effect.tries).toBe(1)
  })

  test('with another input is a Conflict and has no effect', async () => {
    const { admin } = await story.tenant()
    const effect = addsConversation(admin)
    const call = (input: unknown) => idempotent(admin, { mutation: 'try', key: 'k', input }, effect)
    await call({ list: [1, 2] })
    for (const other of [{ list: [2, 1] }, { list: [1, 2], more: 1 }, { list: ['1', 2] }, {}, null]) {
      await expect(call(other)).rejects.toThrow(Conflict)
    }
    expect(effect.tries).toBe(1)
  })

  test('is another one for another key, mutation, actor or tenant', async () => {
    const acme = await story.tenant()
    const globex = await story.tenant()
    const call = (scope: Scope, mutation: string, key: string) =>
      idempotent(scope, { mutation, key, input: {} }, addsConversation(scope))
    const answers = [
      await call(acme.admin, 'try', 'k'),
      await call(acme.admin, 'try', 'K'),
      await call(acme.admin, 'tryOther', 'k'),
      await call(acme.member, 'try', 'k'),
      await call(globex.admin, 'try', 'k'),
    ]
    expect(new Set(answers).size).toBe(5)
    expect(await conversations(acme.admin)).toBe(4)
    expect(await conversations(globex.admin)).toBe(1)
  })

  test('without a key is performed again', async () => {
    const { admin } = await story.tenant()
    for (const key of [null, undefined]) await idempotent(admin, { mutation: 'try', key, input: {} }, addsConversation(admin))
    expect(await conversations(admin)).toBe(2)
    expect(await keys(admin)).toBe(0)
  })

  test('after the result was deleted answers what a look-up would', async () => {
    const { admin } = await story.tenant()
    const input = { idempotencyKey: 'gone' }
    const { id } = await createConversation(admin, input)
    await deleteConversation(admin, { conversationId: id })
    await expect(createConversation(admin, input)).rejects.toThrow(NotFound)
  })
})

describe('equal calls at the same time', () => {
  test('have one effect and one answer, a hundred of them', async () => {
    const { admin } = await story.tenant()
    const effect = addsConversation(admin)
    const call = () => idempotent(admin, { mutation: 'try', key: 'k', input: {} }, effect)
    const answers = await Promise.all(Array.from({ length: 100 }, call))
    expect(new Set(answers).size).toBe(1)
    expect(effect.tries).toBeGreaterThan(1)
    expect(await conversations(admin)).toBe(1)
    expect(await keys(admin)).toBe(1)
  })

  test('with different inputs have one effect; the others are Conflicts', async () => {
    const { admin } = await story.tenant()
    const titles = Array.from({ length: 20 }, (_, index) => `Title ${index}`)
    const results = await Promise.allSettled(titles.map((title) => createConversation(admin, { title, idempotencyKey: 'one' })))
    const refusals = results.filter((result) => result.status === 'rejected')
    expect(refusals).toHaveLength(19)
    for (const { reason } of refusals) expect(reason).toBeInstanceOf(Conflict)
    expect(await conversations(admin)).toBe(1)
  })

  test('go on when the first one fails after the second began to wait for it', async () => {
    const { admin } = await story.tenant()
    const call = { mutation: 'try', key: 'k', input: {} }
    const remembered = Promise.withResolvers<void>()
    const fail = Promise.withResolvers<void>()
    const first = idempotent<string>(admin, call, {
      perform: (remember) =>
        admin.db.$transaction(async (tx) => {
          await remember(tx, newId())
          remembered.resolve()
          await fail.promise
          throw new Error('It broke.')
        }),
      replay: async (resultId) => resultId,
    })
    await remembered.promise
    const effect = addsConversation(admin)
    const second = idempotent(admin, call, effect)
    fail.resolve()
    await expect(first).rejects.toThrow('It broke.')
    expect(await admin.db.conversation.findFirst({ where: { id: await second } })).not.toBeNull()
    expect(effect.tries).toBe(1)
  })
})

test('a call that failed is not remembered', async () => {
  const { admin } = await story.tenant()
  const call = { mutation: 'try', key: 'k', input: {} }
  const broken: Effect<string> = {
    perform: (remember) =>
      admin.db.$transaction(async (tx) => {
        await remember(tx, newId())
        throw new Error('It broke.')
      }),
    replay: async () => 'replayed',
  }
  await expect(idempotent(admin, call, broken)).rejects.toThrow('It broke.')
  expect(await keys(admin)).toBe(0)
  const effect = addsConversation(admin)
  await idempotent(admin, call, effect)
  expect(effect.tries).toBe(1)
})

test('a key is remembered for 24 hours and can then be used anew, by many at once', async () => {
  const { admin } = await story.tenant()
  const call = (title: string) => createConversation(admin, { title, idempotencyKey: 'daily' })
  const monday = await call('Monday')
  story.advance(idempotencyTtl - 60_000)
  expect((await call('Monday')).id).toBe(monday.id)
  story.advance(60_000)
  const tuesdays = await Promise.all(Array.from({ length: 20 }, () => call('Tuesday')))
  expect(new Set(tuesdays.map(({ id }) => id)).size).toBe(1)
  expect(tuesdays[0]?.id).not.toBe(monday.id)
  expect(await keys(admin)).toBe(1)
  expect(await conversations(admin)).toBe(2)
  await expect(call('Monday')).rejects.toThrow(Conflict)
})

test('a key is 1 to 255 visible ASCII characters', async () => {
  const { admin } = await story.tenant()
  const effect = addsConversation(admin)
  const call = (key: string) => idempotent(admin, { mutation: 'try', key, input: {} }, effect)
  for (const key of ['', ' ', 'a b', 'é', 'a\n', 'a\0', '\u007f', 'a'.repeat(256), 'a'.repeat(1_000_000)]) {
    const refused = await call(key).catch((error) => error)
    expect(refused).toBeInstanceOf(ValidationProblem)
    expect(refused.path).toEqual(['idempotencyKey'])
  }
  expect(effect.tries).toBe(0)
  for (const key of ['a', '!', '~', `'"\\;--`, 'a'.repeat(255)]) await call(key)
  expect(effect.tries).toBe(5)
})
