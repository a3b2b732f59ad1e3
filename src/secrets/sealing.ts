import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject, randomBytes } from 'node:crypto'

/** Bytes of every key, AES-256's. */
export const keyBytes = 32

/** What was sealed does not open: it was sealed under another key or for something else, or it was changed. */
export class Unreadable extends Error {
  constructor(message = 'What was encrypted cannot be read: it is not of this place, or its key is gone.') {
    super(message)
    this.name = 'Unreadable'
  }
}

/** First byte of everything sealed: how the rest is made. */
const format = 1
// NIST SP 800-38D: 96-bit nonces, at random for at most 2^32 messages under one key, and tags of the full 128 bits.
const nonceBytes = 12
const tagBytes = 16

/**
 * Encrypts with AES-256-GCM under a nonce of its own. It opens with the same key for the same `place` alone: what and whose it is,
 * word by word. Answers format, nonce, ciphertext and tag.
 */
export function seal(key: KeyObject, place: readonly string[], plaintext: Uint8Array): Uint8Array<ArrayBuffer> {
  const nonce = randomBytes(nonceBytes)
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes }).setAAD(additionalData(place))
  return Uint8Array.from(
    Buffer.concat([Uint8Array.of(format), nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]),
  )
}

/** What `seal` encrypted. Throws Unreadable, which never says what of it was wrong. */
export function unseal(key: KeyObject, place: readonly string[], sealed: Uint8Array): Buffer {
  if (sealed[0] !== format || sealed.length < 1 + nonceBytes + tagBytes) throw new Unreadable()
  const nonce = sealed.subarray(1, 1 + nonceBytes)
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes }).setAAD(additionalData(place))
  decipher.setAuthTag(sealed.subarray(-tagBytes))
  const plaintext = decipher.update(sealed.subarray(1 + nonceBytes, -tagBytes))
  try {
    return Buffer.concat([plaintext, decipher.final()])
  } catch {
    throw new Unreadable()
  }
}

/** The key for one use that follows from `key` (HKDF with SHA-256, RFC 5869), so that no key is used in two ways. */
export function derive(key: KeyObject, use: string): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync('sha256', key, '', `bulkhead ${use}`, keyBytes)))
}

/** As JSON no two places are written alike. */
function additionalData(place: readonly string[]): Buffer {
  return Buffer.from(JSON.stringify([format, ...place]))
}
