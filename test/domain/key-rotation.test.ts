import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { storeDatabase } from '../../src/data/database-address.ts'
import { placedPools } from '../../src/data/placed-pools.ts'
import { openPlatformPool } from '../../src/data/platform-database.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { newId } from '../../src/domain/ids.ts'
import { rotateKeys } from '../../src/domain/key-rotation.ts'
import { setSecret } from '../../src/domain/secret.ts'
import { EnvelopeVault } from '../../src/secrets/envelope-vault.ts'
import { createLocalKeyProvider } from '../../src/secrets/key-provider.ts'
import { type MasterKeys, masterKeysOf } from '../../src/secrets/master-keys.ts'
import { createPlatformCipher } from '../../src/secrets/platform-cipher.ts'
import { Unreadable } from '../../src/secrets/sealing.ts'
import { testCipher, testMasterKey, testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

const vaultUnder = (keys: MasterKeys) => new EnvelopeVault(createLocalKeyProvider(keys), { max: 0 })

let story: Story
let own: TestDatabase
/** Acme has a database of its own; Globex is where most are. */
let [acme, globex]: TenantStory[] = []
/** Each test rotates from the key that the one before rotated to. */
let current = testMasterKey
const opened = new AsyncDisposableStack()

beforeAll(async () => {
  ;[story, own] = await Promise.all([
    startStory({ ports: { vault: vaultUnder(masterKeysOf(testMasterKey)) } }),
    createTestDatabase({ empty: true }),
  ])
  ;[acme, globex] = [await story.tenant(), await story.tenant()]
  for (const { admin } of [acme, globex]) await setSecret(admin, { name: 'kept', value: `of ${admin.tenant.name}` })
  await using moving = testMover(story.database)
  await moving.mover.place(acme.tenant.name, own.adminUrl)
})

afterAll(async () => {
  await opened.disposeAsync()
  await story.close()
  await own.drop()
})

/** The platform as a process sees it that has these master keys. */
async function platformWith(masterKeys: MasterKeys) {
  const { appUrl, platformUrl } = story.database
  const catalog = new Catalog({ connectionString: platformUrl, cipher: createPlatformCipher(masterKeys) })
  const openPool = (connectionString: string) => new TenantPool({ connectionString, max: 4 })
  const data = new TenantData(openPool(appUrl), { elsewhere: placedPools(catalog.placements, openPool) })
  opened.defer(async () => {
    await data.close()
    await catalog.close()
  })
  await catalog.placements.start()
  return { catalog, data, ports: { vault: vaultUnder(masterKeys) } }
}

type Opened = Awaited<ReturnType<typeof platformWith>>

/** A new master key, that is the current one from now on, and the platform of those who know the one before, too. */
async function nextKey() {
  const before = current
  current = randomBytes(32).toString('base64')
  return { both: await platformWith(masterKeysOf(current, [before])), alone: masterKeysOf(current), before: masterKeysOf(before) }
}

/** So many data keys more for the tenant, wrapped under the master keys' current one. */
async function addKeys({ data }: Opened, { tenant }: TenantStory, masterKeys: MasterKeys, count: number): Promise<void> {
  const rows = Array.from({ length: count }, async () => ({
    ...{ id: newId(), tenantId: tenant.id, createdAt: new Date(0) },
    ...(await vaultUnder(masterKeys).createKey(tenant.id)),
  }))
  await data.of({ tenantId: tenant.id, userId: null }).dataKey.createMany({ data: await Promise.all(rows) })
}

async function readKept({ data, ports }: Opened, { tenant }: TenantStory): Promise<string> {
  const db = data.of({ tenantId: tenant.id, userId: null })
  const { id, ciphertext, dataKey } = await db.secret.findFirstOrThrow({ where: { name: 'kept' }, include: { dataKey: true } })
  return (await ports.vault.unlock(tenant.id, dataKey)).decrypt(id, ciphertext)
}

const both = () => [acme as TenantStory, globex as TenantStory]

/** Under which keys things are, in both databases. */
async function keysInUse(): Promise<string[]> {
  const used = await Promise.all([
    selectRows(story.database, 'select key_id as key from databases union select wrapping_key_id from data_keys'),
    selectRows(own, 'select distinct wrapping_key_id as key from data_keys'),
  ])
  return [...new Set(used.flat().map(({ key }) => String(key)))]
}

describe('rotateKeys', () => {
  it('puts all under the new key, in every database, and what was encrypted is read with that alone', {
    tags: ['rule-15'],
  }, async () => {
    const next = await nextKey()
    for (const tenant of both()) await addKeys(next.both, tenant, next.before, 30)
    const progress: number[] = []
    expect(await rotateKeys(next.both, { onProgress: ({ done, all }) => void progress.push(done / all) })).toEqual({
      ...{ dataKeys: 62, databases: 1, left: { dataKeys: 0, databases: 0 }, failures: [] },
    })
    expect(progress.at(-1)).toBe(1)
    expect(await keysInUse()).toEqual([next.alone.currentId])
    const alone = await platformWith(next.alone)
    for (const tenant of both()) expect(await readKept(alone, tenant)).toBe(`of ${tenant.tenant.name}`)
    await expect(readKept({ ...alone, ports: { vault: vaultUnder(next.before) } }, globex as TenantStory)).rejects.toThrow(
      Unreadable,
    )
    expect(await rotateKeys(alone)).toMatchObject({ dataKeys: 0, databases: 0 })
  })

  it('run twice at once rewraps each key once', async () => {
    const next = await nextKey()
    for (const tenant of both()) await addKeys(next.both, tenant, next.before, 30)
    const rotations = await Promise.all([rotateKeys(next.both), rotateKeys(next.both)])
    for (const { left, failures } of rotations) expect([left, failures]).toEqual([{ dataKeys: 0, databases: 0 }, []])
    expect(rotations.reduce((sum, { dataKeys }) => sum + dataKeys, 0)).toBe(122)
    expect(await keysInUse()).toEqual([next.alone.currentId])
  })

  it('goes on where it was interrupted, and who reads meanwhile reads all', async () => {
    const next = await nextKey()
    for (const tenant of both()) await addKeys(next.both, tenant, next.before, 30)
    let rewrapped = 0
    const vault: Opened['ports']['vault'] = Object.assign(vaultUnder(masterKeysOf(current, [])), {})
    const working = next.both.ports.vault
    vault.rewrap = async (...key) => {
      if (rewrapped++ >= 20) throw new Error('The key service is away.')
      for (const tenant of both()) expect(await readKept(next.both, tenant)).toBe(`of ${tenant.tenant.name}`)
      return working.rewrap(...key)
    }
    const first = await rotateKeys({ ...next.both, ports: { vault } })
    expect(first.failures.map(({ error }) => String(error))).toEqual(Array(2).fill('Error: The key service is away.'))
    expect(first.left.dataKeys).toBeGreaterThan(0)
    expect(await keysInUse()).toHaveLength(2)
    for (const tenant of both()) expect(await readKept(next.both, tenant)).toBe(`of ${tenant.tenant.name}`)
    const second = await rotateKeys(next.both)
    expect(second).toMatchObject({ dataKeys: first.left.dataKeys, left: { dataKeys: 0 }, failures: [] })
  })

  it('leaves a tenant that is just being moved, and says so', async () => {
    const next = await nextKey()
    const { id } = (globex as TenantStory).tenant
    const fence = (at: string) =>
      asAdmin(story.database, (admin) => admin.query(`update tenants set fenced_at = ${at} where id = $1`, [id]))
    await fence('now()')
    expect(await rotateKeys(next.both)).toMatchObject({ left: { dataKeys: 91 }, failures: [] })
    await fence('null')
    expect(await rotateKeys(next.both)).toMatchObject({ dataKeys: 91, left: { dataKeys: 0 } })
  })

  it('counts what somebody encrypts under the old key meanwhile as left', async () => {
    const next = await nextKey()
    let added: Promise<void> | null = null
    const vault: Opened['ports']['vault'] = Object.assign(vaultUnder(next.alone), {})
    vault.rewrap = async (...key) => {
      added ??= addKeys(next.both, globex as TenantStory, next.before, 1)
      await added
      return next.both.ports.vault.rewrap(...key)
    }
    expect(await rotateKeys({ ...next.both, ports: { vault } })).toMatchObject({ left: { dataKeys: 1 }, failures: [] })
    expect(await rotateKeys(next.both)).toMatchObject({ dataKeys: 1, left: { dataKeys: 0 } })
  })

  it('without the key of before changes nothing of that, and names it', async () => {
    const next = await nextKey()
    const forgetful = { ...next.both, ports: { vault: vaultUnder(next.alone) } }
    const { failures, left } = await rotateKeys(forgetful)
    expect(left.dataKeys).toBeGreaterThan(0)
    expect(failures).toHaveLength(2)
    expect(String(failures[0]?.error)).toContain(
      `${next.before.currentId} is not configured. Add it to BULKHEAD_OLD_MASTER_KEYS.`,
    )
    expect(await rotateKeys(next.both)).toMatchObject({ left: { dataKeys: 0, databases: 0 }, failures: [] })
  })

  it('does not take for done what it cannot see', async () => {
    const pool = openPlatformPool({ connectionString: story.database.platformUrl, max: 1 })
    try {
      const nowhere = 'postgres://nobody:nothing@127.0.0.1:9/nowhere'
      await storeDatabase(pool, testCipher, { appUrl: nowhere, platformUrl: nowhere, adminUrl: nowhere })
    } finally {
      await pool.end()
    }
    const blind = await platformWith(masterKeysOf(current, [testMasterKey]))
    await expect(rotateKeys(blind)).rejects.toThrow()
  })
})
