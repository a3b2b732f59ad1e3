// @module-tag authentication
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type ApiKeyClaim,
  formatApiKey,
  hashSecret,
  newSecret,
  type Peppers,
  parseApiKey,
  verifySecret,
} from '../../src/domain/credential.ts'
import { anyText } from '../support/arbitraries.ts'

const letters = fc.constantFrom(...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz')
const secrets = fc.string({ unit: letters, minLength: 43, maxLength: 43 })

const claims: fc.Arbitrary<ApiKeyClaim> = fc.oneof(
  fc.record({ kind: fc.constant('tenant' as const), tenantId: fc.uuid(), id: fc.uuid(), secret: secrets }),
  fc.record({ kind: fc.constant('operator' as const), id: fc.uuid(), secret: secrets }),
)

describe('the text of a key', () => {
  test('is read back as what it was written from', () => {
    fc.assert(
      fc.property(claims, (claim) => {
        expect(parseApiKey(formatApiKey(claim))).toEqual(claim)
      }),
    )
  })

  test('is refused with any one character changed, dropped or doubled', () => {
    fc.assert(
      fc.property(claims, fc.nat(), fc.oneof(letters, fc.string({ minLength: 1, maxLength: 1 })), (claim, place, other) => {
        const key = formatApiKey(claim)
        const at = place % key.length
        fc.pre(key[at] !== other)
        expect(parseApiKey(key.slice(0, at) + other + key.slice(at + 1))).toBeNull()
        expect(parseApiKey(key.slice(0, at) + key.slice(at + 1))).toBeNull()
        expect(parseApiKey(key.slice(0, at) + key[at] + key.slice(at))).toBeNull()
      }),
    )
  })

  test('is all there is: white space around it, or anything else, is no key', () => {
    const key = formatApiKey({ kind: 'operator', id: '0192f0c1-2345-7890-abcd-ef0123456789', secret: newSecret() })
    for (const text of [` ${key}`, `${key}\n`, `${key}${key}`, `Bearer ${key}`, key.toUpperCase()]) {
      expect(parseApiKey(text)).toBeNull()
    }
    fc.assert(
      fc.property(anyText, (text) => {
        expect(parseApiKey(text)).toBeNull()
      }),
    )
    expect(parseApiKey(`bh_op_${'a'.repeat(1_000_000)}`)).toBeNull()
  })
})

describe('a secret', () => {
  const first: Peppers = { current: 1, secrets: new Map([[1, 'salted lemons']]) }
  const rotated: Peppers = { current: 2, secrets: new Map([...first.secrets, [2, 'black garlic']]) }

  test('is never made twice', () => {
    expect(new Set(Array.from({ length: 1000 }, newSecret)).size).toBe(1000)
  })

  test('is verified by its hash, and no other is', () => {
    const secret = newSecret()
    expect(verifySecret(secret, hashSecret(secret, first), first)).toBe(true)
    expect(verifySecret(newSecret(), hashSecret(secret, first), first)).toBe(false)
  })

  test('is verified under the pepper it was hashed with, as long as that is kept', () => {
    const secret = newSecret()
    const old = hashSecret(secret, first)
    const recent = hashSecret(secret, rotated)
    expect(recent.secretHash).not.toEqual(old.secretHash)
    expect(verifySecret(secret, old, rotated)).toBe(true)
    expect(verifySecret(secret, recent, rotated)).toBe(true)
    expect(verifySecret(secret, recent, first)).toBe(false)
  })

  test('is verified by nothing when nothing is stored, or when what is stored is no hash', () => {
    expect(verifySecret(newSecret(), null, first)).toBe(false)
    expect(verifySecret('', { secretHash: new Uint8Array(), pepperVersion: 1 }, first)).toBe(false)
  })

  test('hashed with no pepper at all is no match for a pepper that is gone', () => {
    const secret = newSecret()
    const unpeppered = hashSecret(secret, { current: 9, secrets: new Map([[9, '']]) })
    expect(verifySecret(secret, unpeppered, first)).toBe(false)
  })
})
