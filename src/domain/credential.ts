import { createHmac, randomInt, timingSafeEqual } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { uuidOfHex } from './ids.ts'

/**
 * What the secrets of API keys are hashed with, by version. New keys use `current`; the others stay until the last key that
 * was hashed with them is gone.
 */
export type Peppers = { current: number; secrets: ReadonlyMap<number, string> }

/** What an API key claims. Nothing of it is true before the secret is verified. */
export type ApiKeyClaim =
  | { kind: 'tenant'; tenantId: string; id: string; secret: string }
  | { kind: 'operator'; id: string; secret: string }

export type SecretHash = { secretHash: Uint8Array<ArrayBuffer>; pepperVersion: number }

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** 43 letters of base 62 hold 256 bits. */
const secretLength = 43

/** Holds the 32 bits of a CRC. */
const checksumLength = 6

const keyPattern = new RegExp(
  `^bh_(?:op|([0-9a-f]{32}))_([0-9a-f]{32})_([0-9A-Za-z]{${secretLength}})([0-9A-Za-z]{${checksumLength}})$`,
)

/** A secret that cannot be guessed, in letters and digits. */
export function newSecret(): string {
  return Array.from({ length: secretLength }, () => alphabet[randomInt(alphabet.length)]).join('')
}

/**
 * The key as its holder sees it: `bh_<tenant>_<id>_<secret><checksum>`, for operators `bh_op_<id>_<secret><checksum>`. The
 * prefix lets secret scanners find leaked keys, the checksum tells a typo without asking the database.
 */
export function formatApiKey(claim: ApiKeyClaim): string {
  const owner = claim.kind === 'operator' ? 'op' : hexOf(claim.tenantId)
  const text = `bh_${owner}_${hexOf(claim.id)}_${claim.secret}`
  return text + checksum(text)
}

/** Reads what `formatApiKey` wrote; null when `text` is anything else. */
export function parseApiKey(text: string): ApiKeyClaim | null {
  const match = keyPattern.exec(text)
  if (!match || checksum(text.slice(0, -checksumLength)) !== match[4]) return null
  const [, tenant, id = '', secret = ''] = match
  return tenant === undefined
    ? { kind: 'operator', id: uuidOfHex(id), secret }
    : { kind: 'tenant', tenantId: uuidOfHex(tenant), id: uuidOfHex(id), secret }
}

/** HMAC-SHA-256 of the secret under the current pepper. A fast hash is enough, since the secret holds 256 random bits. */
export function hashSecret(secret: string, peppers: Peppers): SecretHash {
  const pepper = peppers.secrets.get(peppers.current)
  if (pepper === undefined) throw new TypeError(`There is no pepper of version ${peppers.current}.`)
  return { secretHash: hmac(secret, pepper), pepperVersion: peppers.current }
}

/**
 * Whether `secret` is what `stored` was made from. Takes as long when nothing is stored, or when its pepper is gone, as when
 * the secret is wrong.
 */
export function verifySecret(secret: string, stored: SecretHash | null, peppers: Peppers): boolean {
  const pepper = stored ? peppers.secrets.get(stored.pepperVersion) : undefined
  const computed = hmac(secret, pepper ?? '')
  const expected = stored?.secretHash.length === computed.length ? stored.secretHash : Buffer.alloc(computed.length)
  return timingSafeEqual(computed, expected) && pepper !== undefined
}

function hmac(secret: string, pepper: string): Buffer<ArrayBuffer> {
  return Buffer.from(createHmac('sha256', pepper).update(secret).digest())
}

function hexOf(uuid: string): string {
  return uuid.replaceAll('-', '')
}

function checksum(text: string): string {
  let rest = crc32(text)
  let digits = ''
  for (let place = 0; place < checksumLength; place++) {
    digits = alphabet[rest % alphabet.length] + digits
    rest = Math.floor(rest / alphabet.length)
  }
  return digits
}
