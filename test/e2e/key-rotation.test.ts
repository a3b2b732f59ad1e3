import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId, type TenantId, tenantIdOf } from '../../src/domain/ids.ts'
import { EnvelopeVault } from '../../src/secrets/envelope-vault.ts'
import { createLocalKeyProvider } from '../../src/secrets/key-provider.ts'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { asAdmin, selectRows } from '../support/tenant-rows.ts'

const [first, second] = [randomBytes(32).toString('base64'), randomBytes(32).toString('base64')]
const vaultUnder = (current: string, ...old: string[]) =>
  new EnvelopeVault(createLocalKeyProvider(masterKeysOf(current, old)), { max: 0 })

/** Enough for the command to take a while. */
const secretsEach = 250

let database: TestDatabase
let dataDir: string
let env: Record<string, string>
let adminKey: string

beforeAll(async () => {
  ;[database, dataDir] = await Promise.all([createTestDatabase(), makeScratchDirectory('bulkhead-e2e-')])
  env = { DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, BULKHEAD_DATA_DIR: dataDir }
  const { tenants } = await seedAccounts({ ...env, BULKHEAD_MASTER_KEY: first })
  adminKey = tenants[0].adminKey
  const rows = await selectRows(database, 'select id from tenants')
  for (const { id } of rows) await addSecrets(tenantIdOf(String(id)))
}, 60_000)

afterAll(async () => {
  await database.drop()
  await rm(dataDir, { recursive: true, force: true })
})

/** Secrets that each have a data key to themselves, as none had them in life. */
async function addSecrets(tenantId: TenantId): Promise<void> {
  const vault = vaultUnder(first)
  await asAdmin(database, async (admin) => {
    for (let number = 0; number < secretsEach; number++) {
      const [keyId, secretId] = [newId(), newId()]
      const { wrappedKey, wrappingKeyId } = await vault.createKey(tenantId)
      const cipher = await vault.unlock(tenantId, { wrappedKey, wrappingKeyId, id: keyId })
      await admin.query(
        `with key as (insert into data_keys (id, tenant_id, wrapped_key, wrapping_key_id, created_at) values ($1, $2, $3, $4, now() - interval '1 day'))
         insert into secrets (id, tenant_id, name, ciphertext, data_key_id) values ($5, $2, $6, $7, $1)`,
        [
          ...[keyId, tenantId, Buffer.from(wrappedKey), wrappingKeyId, secretId, `secret-${number}`],
          Buffer.from(cipher.encrypt(secretId, `value of ${secretId}`)),
        ],
      )
    }
  })
}

/** How many of all secrets were read as they should, in a process that knows these keys. */
async function readAll(vault: EnvelopeVault): Promise<number> {
  const rows = await selectRows(
    database,
    `select s.id, s.tenant_id, s.ciphertext, k.id as key_id, k.wrapped_key, k.wrapping_key_id from secrets s
     join data_keys k on k.tenant_id = s.tenant_id and k.id = s.data_key_id where s.name like 'secret-%'`,
  )
  let read = 0
  for (const row of rows) {
    const key = { id: row['key_id'], wrappedKey: row['wrapped_key'], wrappingKeyId: row['wrapping_key_id'] }
    const cipher = await vault.unlock(row['tenant_id'] as TenantId, key as never)
    if (cipher.decrypt(String(row['id']), row['ciphertext'] as Uint8Array) === `value of ${row['id']}`) read++
  }
  return read
}

async function rotated(): Promise<number> {
  const { currentKeyId } = createLocalKeyProvider(masterKeysOf(second))
  const [row] = await selectRows(
    database,
    `select count(*)::int as keys from data_keys where wrapping_key_id = '${currentKeyId}'`,
  )
  return Number(row?.['keys'])
}

const all = 2 * secretsEach
const command = (keys: Record<string, string>, ...args: string[]): PlatformProcess =>
  startPlatformProcess({ ...env, ...keys }, args)
const during = { BULKHEAD_MASTER_KEY: second, BULKHEAD_OLD_MASTER_KEYS: first }

describe('bulkhead keys rotate', { timeout: 240_000 }, () => {
  it('killed in the middle goes on when it is run again, and everybody reads everything throughout', async () => {
    // Of before: it does not encrypt under the new key yet, and knows it.
    const server = command({ BULKHEAD_MASTER_KEY: first, BULKHEAD_OLD_MASTER_KEYS: second }, 'start')
    try {
      const client = graphqlClient(await server.url, adminKey)
      const setSecret = (name: string) =>
        client.data<{ setSecret: { __typename: string } }>(
          `mutation { setSecret(input: { name: "${name}", value: "new" }) { __typename } }`,
        )
      expect((await setSecret('before')).setSecret.__typename).toBe('SetSecretPayload')

      let reading = true
      const reads: number[] = []
      const reader = (async () => {
        while (reading) reads.push(await readAll(vaultUnder(second, first)))
      })()
      const killed = command(during, 'keys', 'rotate')
      while ((await rotated()) < all / 8) await delay(1)
      await killed.stop('SIGKILL')
      const halfway = await rotated()
      expect(halfway).toBeLessThan(all)

      const finished = command(during, 'keys', 'rotate')
      expect(await finished.exited).toBe(0)
      reading = false
      await reader
      expect(reads.length).toBeGreaterThan(0)
      expect(new Set(reads)).toEqual(new Set([all]))
      expect(finished.errors()).toContain(`Rewrapped ${all - halfway} of ${all - halfway} data keys.`)
      expect(finished.errors()).toContain('Nothing is under an older one any more.')
      expect(await rotated()).toBe(all)
      expect((await setSecret('after')).setSecret.__typename).toBe('SetSecretPayload')
      await client.close()
    } finally {
      await server.stop()
    }
    expect(await readAll(vaultUnder(second))).toBe(all)
    expect(await command({ BULKHEAD_MASTER_KEY: second }, 'keys', 'rotate').exited).toBe(0)
  })

  it('fails where the old key is not known, and the doctor says what is to be done', async () => {
    const third = { BULKHEAD_MASTER_KEY: randomBytes(32).toString('base64') }
    const blind = command(third, 'keys', 'rotate')
    expect(await blind.exited).toBe(1)
    expect(blind.errors()).toMatch(
      /were not rewrapped: The master key \w+ is not configured\. Add it to BULKHEAD_OLD_MASTER_KEYS\./,
    )
    expect(blind.errors()).toContain(`Still under an older one: ${all} data keys`)
    const doctor = command(third, 'doctor')
    expect(await doctor.exited).toBe(1)
    expect(doctor.output()).toMatch(new RegExp(`^master key +problem +${all} data keys .*bulkhead keys rotate`, 'm'))
    expect(await readAll(vaultUnder(second))).toBe(all)
  })
})
