// @module-tag rule-17
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createApiKey, revokeApiKey } from '../../src/domain/api-key.ts'
import { Unavailable } from '../../src/domain/errors.ts'
import type { TenantId } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { suspendTenant } from '../../src/domain/tenant-standing.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { type EndReason, Sessions } from '../../src/server/sessions.ts'
import { adminQuery } from '../support/database-url.ts'
import { operatorKey, signInOperator } from '../support/operator.ts'
import { until } from '../support/run-story.ts'
import { type Story, startStory, withoutSignals } from '../support/story.ts'

let story: Story
const opened: Sessions[] = []

beforeAll(async () => {
  story = await startStory()
})

afterEach(async () => {
  for (const sessions of opened.splice(0)) await sessions.close()
})

afterAll(() => story.close())

/** Sessions that look every `pollMs`, and what they asked, whom they checked and what went wrong. */
async function start({ pollMs = 50, deaf = false } = {}) {
  const asked: TenantId[][] = []
  const checked: (string | null)[] = []
  const errors: unknown[] = []
  const outage = { of: 'nothing' as 'nothing' | 'versions' | 'credentials', silentFor: '' }
  const fail = (what: string) => {
    if (outage.of === what) throw new Unavailable('The database is away.', 1)
  }
  const sessions = new Sessions({
    async authenticate(credential) {
      checked.push(credential)
      fail('credentials')
      if (credential === outage.silentFor) return Promise.withResolvers<never>().promise
      return story.authenticate(credential)
    },
    signals: deaf ? new MemorySignals({ onError: (error) => errors.push(error) }) : story.ports.signals,
    async accessVersions(tenantIds) {
      asked.push(tenantIds)
      fail('versions')
      return story.catalog.tenants.accessVersions(tenantIds)
    },
    pollMs,
    onError: (error) => errors.push(error),
  })
  opened.push(sessions)
  await sessions.start()
  /** Opens a session, and resolves `ended` with the reason for its end. */
  const open = async (key: string) => {
    const principal = await story.authenticate(key)
    if (!principal) throw new Error('The key was refused.')
    const ended = Promise.withResolvers<EndReason>()
    const session = { isOpen: true, ended: ended.promise }
    const leave = sessions.watch(key, principal, (reason) => {
      session.isOpen = false
      ended.resolve(reason)
    })
    return Object.assign(session, { leave })
  }
  return { sessions, open, asked, checked, errors, outage }
}

async function newKey(admin: Scope, expiresAt?: Date) {
  const { apiKey, secret } = await createApiKey(admin, { name: 'Doomed', role: 'MEMBER', expiresAt })
  return { id: apiKey.id, key: secret ?? '' }
}

/** Waits for a look that began after now. */
async function nextLook({ asked }: { asked: unknown[] }): Promise<void> {
  const before = asked.length
  await until(() => asked.length > before + 1)
}

describe('sessions', () => {
  it('end by the signal when access changes, and no others', async () => {
    const { admin, keys } = await story.tenant()
    const { id, key } = await newKey(admin)
    const watched = await start({ pollMs: 60_000 })
    const [doomed, other] = [await watched.open(key), await watched.open(keys.admin)]
    await revokeApiKey(admin, { apiKeyId: id })
    expect(await doomed.ended).toBe('revoked')
    expect(other.isOpen).toBe(true)
  })

  it('end by the poll when no signal arrives', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const watched = await start({ deaf: true })
    const [ours, theirs] = [await watched.open(acme.keys.endUser), await watched.open(globex.keys.endUser)]
    await nextLook(watched)
    await suspendTenant(await signInOperator(story), { tenantId: acme.tenant.id, reason: 'x' })
    expect(await ours.ended).toBe('revoked')
    await nextLook(watched)
    expect(theirs.isOpen).toBe(true)
  })

  it('end when their key was revoked between its check and the first look', async () => {
    const { admin } = await story.tenant()
    const { id, key } = await newKey(admin)
    const watched = await start({ deaf: true })
    const principal = await story.authenticate(key)
    await revokeApiKey(withoutSignals(admin), { apiKeyId: id })
    const ended = Promise.withResolvers<EndReason>()
    if (principal) watched.sessions.watch(key, principal, ended.resolve)
    expect(await ended.promise).toBe('revoked')
  })

  it('end when their key expires', async () => {
    const { admin } = await story.tenant()
    const { key } = await newKey(admin, new Date(story.ports.now() + 3_600_000))
    const watched = await start({ deaf: true })
    const session = await watched.open(key)
    await nextLook(watched)
    expect(session.isOpen).toBe(true)
    story.advance(3_600_000)
    expect(await session.ended).toBe('revoked')
  })

  it('of an operator end when that key is revoked', async () => {
    const key = await operatorKey(story)
    const watched = await start()
    const session = await watched.open(key)
    await adminQuery(story.database.adminUrl, 'update operator_keys set revoked_at = now()')
    expect(await session.ended).toBe('revoked')
  })

  it('are asked about by one query for all tenants, checked once for each key, and then only after a change', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const watched = await start()
    for (const key of [acme.keys.admin, acme.keys.admin, globex.keys.member]) await watched.open(key)
    await nextLook(watched)
    watched.checked.length = 0
    watched.asked.length = 0
    await nextLook(watched)
    expect(new Set(watched.asked.map((tenants) => tenants.toSorted().join()))).toEqual(
      new Set([[acme.tenant.id, globex.tenant.id].toSorted().join()]),
    )
    expect(watched.checked).toEqual([])
    await revokeApiKey(acme.admin, { apiKeyId: acme.member.actor.id })
    await until(() => watched.checked.length > 0)
    await nextLook(watched)
    expect(watched.checked).toEqual([acme.keys.admin])
  })

  it('cost nothing when there are none', async () => {
    const { keys } = await story.tenant()
    const watched = await start({ pollMs: 10 })
    await delay(100)
    expect(watched.asked).toEqual([])
    const session = await watched.open(keys.admin)
    await nextLook(watched)
    session.leave()
    await delay(50)
    watched.asked.length = 0
    await delay(100)
    expect(watched.asked).toEqual([])
  })

  it.each(['versions', 'credentials'] as const)('stay while nobody can tell (%s), and end once that is over', async (what) => {
    const { admin } = await story.tenant()
    const { id, key } = await newKey(admin)
    const watched = await start()
    const session = await watched.open(key)
    await nextLook(watched)
    watched.outage.of = what
    // A look that began before the outage must not come upon what is revoked in it.
    if (what === 'versions') await until(() => watched.errors.length > 0)
    await revokeApiKey(admin, { apiKeyId: id })
    await until(() => watched.errors.length > 0)
    await nextLook(watched)
    expect(session.isOpen).toBe(true)
    // One outage is one report.
    expect(watched.errors).toEqual([expect.any(Unavailable)])
    watched.outage.of = 'nothing'
    expect(await session.ended).toBe('revoked')
  })

  it('end while nobody can tell of another tenant, since its database is silent', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const watched = await start()
    watched.outage.silentFor = globex.keys.admin
    const theirs = await watched.open(globex.keys.admin)
    await until(() => watched.checked.includes(globex.keys.admin))
    const { id, key } = await newKey(acme.admin)
    const ours = await watched.open(key)
    const revokedAt = performance.now()
    await revokeApiKey(acme.admin, { apiKeyId: id })
    expect(await ours.ended).toBe('revoked')
    expect(performance.now() - revokedAt).toBeLessThan(1_000)
    expect(theirs.isOpen).toBe(true)
    // Nor are questions piled up.
    await nextLook(watched)
    expect(watched.checked.filter((credential) => credential === globex.keys.admin)).toHaveLength(1)
  })

  it('end when the server shuts down', async () => {
    const { keys } = await story.tenant()
    const watched = await start()
    const session = await watched.open(keys.member)
    await watched.sessions.close()
    expect(await session.ended).toBe('shutdown')
  })
})
