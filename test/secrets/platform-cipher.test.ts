import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { createPlatformCipher } from '../../src/secrets/platform-cipher.ts'
import { Unreadable } from '../../src/secrets/sealing.ts'

const masterKey = () => randomBytes(32).toString('base64')
const current = masterKey()
const cipher = createPlatformCipher(masterKeysOf(current))
const url = 'postgres://app:päßwort@db.example/bulkhead'

describe('the cipher of the platform', () => {
  it('opens what it sealed, and seals the same text differently each time', async () => {
    const [one, other] = [await cipher.seal('database', url), await cipher.seal('database', url)]
    expect(await cipher.open('database', cipher.keyId, one)).toBe(url)
    expect(await cipher.open('database', cipher.keyId, other)).toBe(url)
    expect(Buffer.from(one).equals(other)).toBe(false)
    expect(Buffer.from(one).includes('example')).toBe(false)
  })

  it('opens nothing for another purpose', async () => {
    const sealed = await cipher.seal('database', url)
    await expect(cipher.open('mail', cipher.keyId, sealed)).rejects.toThrow(Unreadable)
  })

  it('opens what an older key sealed while that key is configured', async () => {
    const sealed = await cipher.seal('database', url)
    const later = masterKey()
    const rotated = createPlatformCipher(masterKeysOf(later, [current]))
    expect(rotated.keyId).not.toBe(cipher.keyId)
    expect(await rotated.open('database', cipher.keyId, sealed)).toBe(url)
    await expect(rotated.open('database', rotated.keyId, sealed)).rejects.toThrow(Unreadable)
    const forgetful = createPlatformCipher(masterKeysOf(later))
    await expect(forgetful.open('database', cipher.keyId, sealed)).rejects.toThrow('BULKHEAD_OLD_MASTER_KEYS')
  })
})
