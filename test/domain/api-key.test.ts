import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApiKey, listApiKeys, revokeApiKey } from '../../src/domain/api-key.ts'
import { Conflict, Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { type Story, startStory, type TenantStory, withoutSignals } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
})
afterAll(() => story.close())

const member = { name: 'CI', role: 'MEMBER' } as const

describe('createApiKey', () => {
  test('makes a key that signs in as what was asked for', async () => {
    const { apiKey, secret } = await createApiKey(acme.admin, { name: 'Otto', role: 'END_USER', userId: 'otto' })
    expect(apiKey).toMatchObject({
      name: 'Otto',
      role: 'END_USER',
      userId: 'otto',
      memberId: null,
      expiresAt: null,
      revokedAt: null,
    })
    const { actor, tenant } = await story.signIn(secret ?? '')
    expect(actor).toEqual({ id: apiKey.id, name: 'Otto', role: 'END_USER', userId: 'otto' })
    expect(tenant.id).toBe(acme.tenant.id)
  })

  test('keeps nothing of the secret', async () => {
    const { apiKey, secret = '' } = await createApiKey(acme.admin, member)
    const kept = Buffer.from(apiKey.secretHash).toString('latin1') + JSON.stringify(apiKey)
    expect(apiKey.secretHash).toHaveLength(32)
    expect(kept).not.toContain(secret?.slice(-49, -6))
  })

  test('shows the secret once: a repeated call answers the same key without it', async () => {
    const input = { ...member, idempotencyKey: newId() }
    const first = await createApiKey(acme.admin, input)
    expect(first.secret).not.toBeNull()
    expect(await createApiKey(acme.admin, input)).toEqual({ apiKey: first.apiKey, secret: null })
    await expect(createApiKey(acme.admin, { ...input, role: 'ADMIN' })).rejects.toThrow(Conflict)
  })

  test('repeated after the key expired is no less valid', async () => {
    const input = { ...member, expiresAt: new Date(story.ports.now() + 60_000), idempotencyKey: newId() }
    const { apiKey } = await createApiKey(acme.admin, input)
    story.advance(120_000)
    expect(await createApiKey(acme.admin, input)).toEqual({ apiKey, secret: null })
  })

  test.each([
    ['name', { ...member, name: ' ' }],
    ['name', { ...member, name: 'a\0' }],
    ['name', { ...member, name: 'a'.repeat(1_000_000) }],
    ['userId', { ...member, role: 'END_USER' }],
    ['userId', { ...member, role: 'END_USER', userId: '' }],
    ['userId', { ...member, userId: 'otto' }],
    ['userId', { ...member, role: 'ADMIN', userId: 'otto' }],
    ['expiresAt', { ...member, expiresAt: new Date(0) }],
    ['expiresAt', { ...member, expiresAt: new Date(Number.NaN) }],
    ['expiresAt', { ...member, expiresAt: new Date(8.64e15) }],
    ['idempotencyKey', { ...member, idempotencyKey: '' }],
  ] as const)('refuses a bad %s', async (path, input) => {
    const refusal = await createApiKey(acme.admin, input).catch((error) => error)
    expect(refusal).toBeInstanceOf(ValidationProblem)
    expect(refusal.path).toEqual([path])
  })

  test('is for admins, whatever the input', async () => {
    for (const scope of [acme.member, acme.endUser]) {
      await expect(createApiKey(scope, { ...member, name: '' })).rejects.toThrow(Forbidden)
    }
  })
})

describe('revokeApiKey', () => {
  test('ends the key and tells every instance; again, it changes nothing and tells them again', async () => {
    const { apiKey } = await createApiKey(acme.admin, member)
    const before = story.signals.length
    const sent = () => story.signals.slice(before)
    const signal = { type: 'AccessChanged', tenantId: acme.tenant.id }
    const version = async () => (await acme.admin.db.tenant.findFirstOrThrow()).accessVersion
    const versionBefore = await version()
    const first = await revokeApiKey(acme.admin, { apiKeyId: apiKey.id })
    expect(first.apiKey.revokedAt).not.toBeNull()
    expect(sent()).toEqual([signal])
    expect(await version()).toBe(versionBefore + 1)
    story.advance(1000)
    expect(await revokeApiKey(acme.admin, { apiKeyId: apiKey.id })).toEqual(first)
    expect(sent()).toEqual([signal, signal])
    expect(await version()).toBe(versionBefore + 1)
  })

  test('holds although nobody could be told', async () => {
    const { secret, apiKey } = await createApiKey(acme.admin, member)
    const { apiKey: revoked } = await revokeApiKey(withoutSignals(acme.admin), { apiKeyId: apiKey.id })
    expect(revoked.revokedAt).not.toBeNull()
    expect(await story.authenticate(secret)).toBeNull()
  })

  test('finds no key of another tenant, exactly as none at all', async () => {
    const foreign = (await createApiKey(globex.admin, member)).apiKey.id
    const before = story.signals.length
    const failures = await Promise.all(
      [foreign, newId(), 'nonsense', '\0'].map((apiKeyId) => revokeApiKey(acme.admin, { apiKeyId }).catch((error) => error)),
    )
    for (const failure of failures) {
      expect(failure).toBeInstanceOf(NotFound)
      expect(failure.message).toBe(failures[1].message)
    }
    expect(story.signals).toHaveLength(before)
    expect((await listApiKeys(globex.admin)).find(({ id }) => id === foreign)?.revokedAt).toBeNull()
  })

  test('is for admins', async () => {
    const apiKeyId = acme.admin.actor.id
    for (const scope of [acme.member, acme.endUser]) await expect(revokeApiKey(scope, { apiKeyId })).rejects.toThrow(Forbidden)
  })
})

describe('listApiKeys', () => {
  test('shows all keys of the tenant and no other', async () => {
    const { admin, member: staff, endUser } = await story.tenant()
    const keys = await listApiKeys(admin)
    expect(keys.map(({ id }) => id)).toEqual([admin.actor.id, staff.actor.id, endUser.actor.id])
    expect(keys.map(({ memberId }) => memberId !== null)).toEqual([true, true, false])
  })

  test('is for admins', async () => {
    for (const scope of [acme.member, acme.endUser]) await expect(listApiKeys(scope)).rejects.toThrow(Forbidden)
  })
})
