import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { WrappedKey } from '../../src/domain/ports.ts'
import { EnvelopeVault } from '../../src/secrets/envelope-vault.ts'
import { createLocalKeyProvider } from '../../src/secrets/key-provider.ts'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { Unreadable } from '../../src/secrets/sealing.ts'

const masterKey = () => randomBytes(32).toString('base64')
const vaultUnder = (current: string, ...old: string[]) => new EnvelopeVault(createLocalKeyProvider(masterKeysOf(current, old)))

const current = masterKey()
const vault = vaultUnder(current)
const tenantId = tenantIdOf(newId())
const secretId = newId()
const value = 'correct horse battery staple'

/** A new tenant's data key, open, and as it is stored. */
async function tenantWithKey(owner = tenantId) {
  const stored = { ...(await vault.createKey(owner)), id: newId() }
  return { stored, cipher: await vault.unlock(owner, stored) }
}

describe('a secret', { tags: ['rule-15'] }, () => {
  it('is read back as it was, whatever it is', async () => {
    const { cipher } = await tenantWithKey()
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat({ max: 1_000 }), fc.uuid(), (part, times, id) => {
        const text = part.repeat(times)
        return cipher.decrypt(id, cipher.encrypt(id, text)) === text
      }),
    )
  })

  it('is encrypted differently each time', async () => {
    const { cipher } = await tenantWithKey()
    const nonces = Array.from({ length: 1_000 }, () => Buffer.from(cipher.encrypt(secretId, value)).toString('hex', 1, 13))
    expect(new Set(nonces).size).toBe(1_000)
  })

  it('does not open in the row of another secret', async () => {
    const { cipher } = await tenantWithKey()
    const ciphertext = cipher.encrypt(secretId, value)
    expect(() => cipher.decrypt(newId(), ciphertext)).toThrow(Unreadable)
  })

  it('does not open for another tenant: not with its key, nor with a copy of the key row', async () => {
    const other = tenantIdOf(newId())
    const { cipher, stored } = await tenantWithKey()
    const ciphertext = cipher.encrypt(secretId, value)
    const theirs = await tenantWithKey(other)
    expect(() => theirs.cipher.decrypt(secretId, ciphertext)).toThrow(Unreadable)
    await expect(vault.unlock(other, stored)).rejects.toThrow(Unreadable)
  })

  it('does not open with another data key of the same tenant', async () => {
    const [one, other] = [await tenantWithKey(), await tenantWithKey()]
    const ciphertext = one.cipher.encrypt(secretId, value)
    expect(() => other.cipher.decrypt(secretId, ciphertext)).toThrow(Unreadable)
  })

  it('does not open when a bit of it was changed, or when some of it is missing', async () => {
    const { cipher } = await tenantWithKey()
    const ciphertext = cipher.encrypt(secretId, value)
    for (let place = 0; place < ciphertext.length; place++) {
      const changed = Uint8Array.from(ciphertext, (byte, index) => (index === place ? byte ^ 1 : byte))
      expect(() => cipher.decrypt(secretId, changed)).toThrow(Unreadable)
      expect(() => cipher.decrypt(secretId, ciphertext.subarray(0, place))).toThrow(Unreadable)
    }
  })

  it('is named by no error, nor is its key', async () => {
    const { cipher, stored } = await tenantWithKey()
    const failures = [
      () => cipher.decrypt(newId(), cipher.encrypt(secretId, value)),
      () => cipher.decrypt(secretId, Buffer.from(value)),
    ].map((read) => {
      try {
        return read()
      } catch (error) {
        return error
      }
    })
    failures.push(await vault.unlock(tenantIdOf(newId()), stored).catch((error) => error))
    for (const failure of failures) {
      expect(failure).toBeInstanceOf(Unreadable)
      expect((failure as Error).cause).toBeUndefined()
      expect((failure as Error).message).toBe(new Unreadable().message)
    }
  })

  it('has a fingerprint that is equal for equal values of one tenant alone', async () => {
    const { cipher } = await tenantWithKey()
    expect(cipher.fingerprint(value)).toBe(cipher.fingerprint(value))
    expect(cipher.fingerprint(value)).not.toBe(cipher.fingerprint(`${value}s`))
    expect((await tenantWithKey(tenantIdOf(newId()))).cipher.fingerprint(value)).not.toBe(cipher.fingerprint(value))
  })
})

describe('a data key', { tags: ['rule-15'] }, () => {
  it('is wrapped: what is stored opens under its own master key alone', async () => {
    const { stored } = await tenantWithKey()
    await expect(vaultUnder(masterKey()).unlock(tenantId, stored)).rejects.toThrow('BULKHEAD_OLD_MASTER_KEYS')
    const renamed = { ...stored, wrappingKeyId: createLocalKeyProvider(masterKeysOf(masterKey())).currentKeyId }
    await expect(vaultUnder(current).unlock(tenantId, renamed)).rejects.toThrow(Unreadable)
  })

  it('does not open under the id of another master key that is known', async () => {
    const { stored } = await tenantWithKey()
    const later = masterKey()
    const { currentKeyId } = createLocalKeyProvider(masterKeysOf(later))
    const confused = { ...stored, wrappingKeyId: currentKeyId }
    await expect(vaultUnder(later, current).unlock(tenantId, confused)).rejects.toThrow(Unreadable)
  })

  it('is wrapped anew under a new master key, and what it encrypted stays readable before, during and after', async () => {
    const { cipher, stored } = await tenantWithKey()
    const ciphertext = cipher.encrypt(secretId, value)
    const later = masterKey()
    const during = vaultUnder(later, current)
    expect((await during.unlock(tenantId, stored)).decrypt(secretId, ciphertext)).toBe(value)

    const rewrapped = (await during.rewrap(tenantId, stored)) as WrappedKey
    expect(rewrapped.wrappingKeyId).not.toBe(stored.wrappingKeyId)
    const after = vaultUnder(later)
    const unlocked = await after.unlock(tenantId, { ...rewrapped, id: stored.id })
    expect(unlocked.decrypt(secretId, ciphertext)).toBe(value)
    expect(unlocked.fingerprint(value)).toBe(cipher.fingerprint(value))
    expect(await after.rewrap(tenantId, rewrapped)).toBeNull()
    await expect(during.rewrap(tenantIdOf(newId()), stored)).rejects.toThrow(Unreadable)
  })
})
