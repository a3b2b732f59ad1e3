// @module-tag authentication
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { createApiKey, revokeApiKey } from '../../src/domain/api-key.ts'
import { createAuthenticator } from '../../src/domain/authenticate.ts'
import { type ApiKeyClaim, formatApiKey, hashSecret, newSecret, parseApiKey } from '../../src/domain/credential.ts'
import { Unavailable } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { anyText } from '../support/arbitraries.ts'
import { adminQuery } from '../support/database-url.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
let operatorKey: string

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  operatorKey = await newOperatorKey()
})
afterAll(() => story.close())

async function newOperatorKey(): Promise<string> {
  const id = newId()
  const secret = newSecret()
  await story.catalog.createOperatorKey({ id, name: 'Olga', ...hashSecret(secret, story.settings.peppers) })
  return formatApiKey({ kind: 'operator', id, secret })
}

/** The key with some of its parts replaced and the right checksum. */
function forge(key: string, change: Partial<ApiKeyClaim>): string {
  const claim = parseApiKey(key)
  if (!claim) throw new Error('It is not a key.')
  return formatApiKey({ ...claim, ...change } as ApiKeyClaim)
}

describe('a valid key', () => {
  test.each([
    ['admin', 'ADMIN', null],
    ['member', 'MEMBER', null],
    ['endUser', 'END_USER', 'ursula'],
  ] as const)('of an %s opens its tenant with its role', async (who, role, userId) => {
    const principal = await story.authenticate(acme.keys[who])
    if (principal?.kind !== 'tenant') throw new Error('It is not a tenant.')
    const { tenant, actor } = principal.scope
    expect(tenant).toMatchObject({ id: acme.tenant.id, name: acme.tenant.name, plan: 'PRO', status: 'ACTIVE' })
    expect(tenant.defaultAgentId).not.toBeNull()
    expect(actor).toMatchObject({ id: parseApiKey(acme.keys[who])?.id, role, userId })
  })

  test('of an end user sees the rows of that user only', async () => {
    const { admin, endUser, tenant } = acme
    const agentId = tenant.defaultAgentId ?? ''
    for (const userId of [null, 'ursula', 'otto']) {
      await admin.db.conversation.create({ data: { id: newId(), tenantId: tenant.id, agentId, userId } })
    }
    expect((await endUser.db.conversation.findMany()).map(({ userId }) => userId)).toEqual(['ursula'])
    expect(await admin.db.conversation.count()).toBe(3)
  })

  test('of a tenant that is being moved opens it all the same, and says so', async () => {
    const { tenant, keys } = await story.tenant()
    await adminQuery(story.database.adminUrl, `UPDATE tenants SET status = 'MOVING' WHERE id = '${tenant.id}'`)
    for (const key of Object.values(keys)) expect((await story.signIn(key)).tenant.status).toBe('MOVING')
  })

  test('says until when it is valid', async () => {
    const expiresAt = new Date(story.ports.now() + 60_000)
    const { secret } = await createApiKey(acme.admin, { name: 'A minute', role: 'MEMBER', expiresAt })
    expect(await story.authenticate(secret)).toMatchObject({ expiresAt })
    expect(await story.authenticate(acme.keys.member)).toMatchObject({ expiresAt: null })
  })

  test('of an operator opens the catalogue and is in no tenant', async () => {
    expect(await story.authenticate(operatorKey)).toMatchObject({
      kind: 'operator',
      operator: { operator: { id: parseApiKey(operatorKey)?.id, name: 'Olga' }, catalog: story.catalog },
    })
  })
})

describe('nobody', () => {
  test('holds no key, or one with a part that is wrong', async () => {
    const globex = await story.tenant()
    const key = acme.keys.admin
    const bad = {
      none: null,
      empty: '',
      unknownTenant: forge(key, { tenantId: newId() }),
      otherTenant: forge(key, { tenantId: globex.tenant.id }),
      unknownId: forge(key, { id: newId() }),
      otherId: forge(key, { id: parseApiKey(acme.keys.member)?.id }),
      wrongSecret: forge(key, { secret: newSecret() }),
      otherSecret: forge(key, { secret: parseApiKey(globex.keys.admin)?.secret }),
      operatorOfTenant: forge(key, { kind: 'operator' }),
      unknownOperator: forge(operatorKey, { id: newId() }),
      wrongOperatorSecret: forge(operatorKey, { secret: newSecret() }),
      tenantOfOperator: forge(operatorKey, { kind: 'tenant', tenantId: acme.tenant.id }),
    }
    for (const [why, credential] of Object.entries(bad)) expect(await story.authenticate(credential), why).toBeNull()
  })

  test('holds a revoked key', async () => {
    const { apiKey, secret } = await createApiKey(acme.admin, { name: 'Short-lived', role: 'MEMBER' })
    expect(await story.authenticate(secret)).not.toBeNull()
    await revokeApiKey(acme.admin, { apiKeyId: apiKey.id })
    expect(await story.authenticate(secret)).toBeNull()
  })

  test('holds an expired key, from the moment it expires', async () => {
    const expiresAt = new Date(story.ports.now() + 60_000)
    const { secret } = await createApiKey(acme.admin, { name: 'A minute', role: 'MEMBER', expiresAt })
    expect(await story.authenticate(secret)).not.toBeNull()
    story.advance(60_000)
    expect(await story.authenticate(secret)).toBeNull()
  })

  test.each(['SUSPENDED', 'ERASED'])('of a tenant that is %s gets in', async (status) => {
    const { tenant, keys } = await story.tenant()
    await adminQuery(story.database.adminUrl, `UPDATE tenants SET status = '${status}' WHERE id = '${tenant.id}'`)
    for (const key of Object.values(keys)) expect(await story.authenticate(key)).toBeNull()
  })

  test('holds an operator key that was revoked', async () => {
    const revoked = await newOperatorKey()
    expect(await story.authenticate(revoked)).not.toBeNull()
    await adminQuery(
      story.database.adminUrl,
      `UPDATE operator_keys SET revoked_at = now() WHERE id = '${parseApiKey(revoked)?.id}'`,
    )
    expect(await story.authenticate(revoked)).toBeNull()
  })

  test('becomes staff through an end-user key that lost its user', async () => {
    const { admin, keys } = await story.tenant()
    await adminQuery(story.database.adminUrl, `UPDATE api_keys SET user_id = NULL WHERE tenant_id = '${admin.tenant.id}'`)
    expect(await story.authenticate(keys.endUser)).toBeNull()
    expect(await story.authenticate(keys.admin)).not.toBeNull()
  })

  test('gets in with any other text, and nothing breaks', async () => {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        expect(await story.authenticate(text)).toBeNull()
      }),
    )
    for (const text of ['a'.repeat(1_000_000), `bh_${'0'.repeat(1_000_000)}`, '\0', '\ud800', '🦆'.repeat(250_000)]) {
      expect(await story.authenticate(text)).toBeNull()
    }
  })

  test('gets in with well-formed keys that were never made', async () => {
    const claims = fc.record({
      kind: fc.constant('tenant' as const),
      tenantId: fc.uuid(),
      id: fc.uuid(),
      secret: fc.constant(newSecret()),
    })
    await fc.assert(
      fc.asyncProperty(claims, async (claim) => {
        expect(await story.authenticate(formatApiKey(claim))).toBeNull()
      }),
      { numRuns: 20 },
    )
  })
})

describe('a database that cannot be reached', () => {
  /** What the authenticator throws with both of its databases at this address. */
  async function failureAt(port: number): Promise<unknown[]> {
    const connectionString = `postgres://bulkhead_app:unused@127.0.0.1:${port}/bulkhead`
    const data = new TenantData(new TenantPool({ connectionString, shared: 1 }))
    const catalog = new Catalog({ connectionString })
    const authenticate = createAuthenticator({ ...story, data, catalog })
    const keys = [acme.keys.admin, operatorKey]
    const failures = await Promise.all(keys.map((key) => authenticate(key).catch((error: unknown) => error)))
    await Promise.all([data.close(), catalog.close()])
    return failures
  }

  async function listen(onSocket: (socket: Socket) => void) {
    const server = createServer(onSocket).listen(0, '127.0.0.1')
    await once(server, 'listening')
    return { port: (server.address() as AddressInfo).port, close: () => new Promise((closed) => server.close(closed)) }
  }

  test('is Unavailable and not a wrong key, when nothing listens', async () => {
    const { port, close } = await listen(() => undefined)
    await close()
    for (const failure of await failureAt(port)) expect(failure).toBeInstanceOf(Unavailable)
  })

  test('is Unavailable and not a wrong key, when it hangs up', async () => {
    const { port, close } = await listen((socket) => void socket.destroy())
    for (const failure of await failureAt(port)) {
      expect(failure).toBeInstanceOf(Unavailable)
      expect(failure).toMatchObject({ retryAfterSeconds: 1, cause: expect.any(Error) })
    }
    await close()
  })

  test('is told from a bug, which is thrown as it is', async () => {
    const catalog = new Catalog({ connectionString: story.database.platformUrl })
    await catalog.close()
    const failure = await createAuthenticator({ ...story, catalog })(operatorKey).catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(Error)
    expect(failure).not.toBeInstanceOf(Unavailable)
  })
})
