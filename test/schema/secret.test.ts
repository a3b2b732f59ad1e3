import { randomBytes } from 'node:crypto'
import { print } from 'graphql'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SetSecretInput } from '../generated/graphql.ts'
import { nodeQuery } from '../operations/node.ts'
import { deleteSecretMutation, secretsQuery, setSecretMutation } from '../operations/secret.ts'
import type { Api } from '../support/api.ts'
import { payload } from '../support/conversing.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform()
  api = platform.api(platform.acme.keys.admin)
})

afterAll(() => platform.stop())

async function set(input: SetSecretInput) {
  return (await api.data(setSecretMutation, { input })).setSecret
}

describe('a secret', () => {
  it('is there from when it is set until it is deleted', async () => {
    const { secret } = payload(await set({ name: 'token', value: 'v' }), 'SetSecretPayload')
    expect(secret).toEqual({ id: expect.any(String), name: 'token', createdAt: expect.any(String), updatedAt: secret.createdAt })
    expect((await api.data(secretsQuery)).secrets).toContainEqual(secret)
    expect((await api.data(nodeQuery, { id: secret.id })).node).toEqual({ __typename: 'Secret', id: secret.id })

    const deleted = await api.data(deleteSecretMutation, { input: { secretId: secret.id } })
    expect(payload(deleted.deleteSecret, 'DeleteSecretPayload').secret).toEqual({ id: secret.id, name: 'token' })
    expect((await api.data(secretsQuery)).secrets).not.toContainEqual(secret)
    expect((await api.data(nodeQuery, { id: secret.id })).node).toBeNull()
    const again = await api.data(deleteSecretMutation, { input: { secretId: secret.id } })
    expect(again.deleteSecret).toMatchObject({ __typename: 'NotFound' })
  })

  it('is set once however often the call is repeated', async () => {
    const input: SetSecretInput = { name: 'once', value: 'v', idempotencyKey: 'k1' }
    const first = payload(await set(input), 'SetSecretPayload')
    expect(payload(await set(input), 'SetSecretPayload')).toEqual(first)
    expect(await set({ ...input, value: 'w' })).toMatchObject({ __typename: 'Conflict' })
  })

  it.each<[string, SetSecretInput, string]>([
    ['a name that tools cannot use', { name: 'my token', value: 'v' }, 'name'],
    ['no value', { name: 'token', value: '' }, 'value'],
  ])('is refused for %s', async (_what, input, path) => {
    expect(await set(input)).toMatchObject({ __typename: 'ValidationProblem', path: [path] })
  })

  it('is for admins, also as a node', async () => {
    const { secret } = payload(await set({ name: 'guarded', value: 'v' }), 'SetSecretPayload')
    for (const key of [platform.acme.keys.member, platform.acme.keys.endUser]) {
      const other = platform.api(key)
      const refused = await other.data(setSecretMutation, { input: { name: 'guarded', value: 'w' } })
      expect(refused.setSecret).toMatchObject({ __typename: 'Forbidden' })
      const kept = await other.data(deleteSecretMutation, { input: { secretId: secret.id } })
      expect(kept.deleteSecret).toMatchObject({ __typename: 'Forbidden' })
      for (const asked of [await other.ask(secretsQuery), await other.ask(nodeQuery, { id: secret.id })]) {
        expect(asked.errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
      }
    }
  })

  it('has a value that no answer and no log line repeats, however the call goes', { tags: ['rule-15'] }, async () => {
    const value = `canary-${randomBytes(12).toString('hex')}`
    const input = { name: 'quiet', value, idempotencyKey: 'k2' }
    const broken = [
      { ...input, name: 'not a name' },
      { ...input, idempotencyKey: '' },
      { ...input, value: `${value}\ud800` },
    ]
    const answers = [
      ...(await Promise.all([input, ...broken].map((each) => api.ask(setSecretMutation, { input: each })))),
      await api.ask(setSecretMutation, { input }),
      await api.ask(secretsQuery),
    ]
    // What is no valid call may be quoted, to whoever sent it.
    const malformed = [{ ...input, other: 1 }, { value }, { ...input, name: 1 }, { ...input, value: [value, value] }, value]
    await Promise.all(malformed.map((each) => api.client.request(print(setSecretMutation), { input: each })))
    await api.client.request(`mutation { setSecret(input: { name: 1, value: "${value}" }) { __typename } }`)
    const forms = [value, Buffer.from(value).toString('hex'), Buffer.from(value).toString('base64').slice(0, -4)]
    for (const form of forms) {
      expect(JSON.stringify(answers)).not.toContain(form)
      expect(JSON.stringify(platform.log())).not.toContain(form)
    }
  })

  it('is no clearer in the log when what encrypts it fails', { tags: ['rule-15'] }, async () => {
    const value = `canary-${randomBytes(12).toString('hex')}`
    const admin = platform.globex.admin
    await platform.api(platform.globex.keys.admin).data(setSecretMutation, { input: { name: 'first', value: 'v' } })
    admin.ports.vault.forget(admin.tenant.id)
    await admin.db.dataKey.updateMany({ data: { wrappedKey: Buffer.from('not a wrapped key') } })
    const { errors } = await platform.api(platform.globex.keys.admin).ask(setSecretMutation, { input: { name: 'second', value } })
    expect(errors?.[0]?.extensions?.['code']).toBe('INTERNAL')
    expect(JSON.stringify(errors)).not.toMatch(/Unreadable|encrypted|canary/)
    const logged = JSON.stringify(platform.log())
    expect(logged).toContain('Unreadable')
    expect(logged).not.toContain(value)
  })
})
