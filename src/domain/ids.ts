import { randomFillSync } from 'node:crypto'
import { v7 } from 'uuid'

declare const tenantIdBrand: unique symbol

/**
 * The id of a verified tenant. Keys, channels and caches take this type and no bare string, so that one
 * without a tenant is a type error. Only authentication and the catalogue make one.
 */
export type TenantId = string & { readonly [tenantIdBrand]: true }

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** Whether `text` is a UUID in its canonical lower-case form, the only form in which ids are handed out. */
export function isUuid(text: string): boolean {
  return uuidPattern.test(text)
}

/** The UUID whose 32 digits `hex` holds, in lower case and without hyphens. */
export function uuidOfHex(hex: string): string {
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** Brands `text` as a tenant id. Throws a TypeError unless it is a canonical UUID. */
export function tenantIdOf(text: string): TenantId {
  if (!isUuid(text)) throw new TypeError('A tenant id is a UUID in lower case.')
  return text as TenantId
}

/** Random bytes of the next ids: to ask the system for 16 takes ten times as long as all else of an id. */
const random = Buffer.alloc(4_096)
let taken = random.length
let last = { msecs: 0, seq: 0 }

/**
 * A new UUIDv7 (RFC 9562): ordered by creation time, those of one process also within a millisecond, and made here because Postgres
 * before 18 cannot.
 */
export function newId(): string {
  if (taken === random.length) {
    randomFillSync(random)
    taken = 0
  }
  const bytes = random.subarray(taken, taken + 16)
  taken += 16
  const now = Date.now()
  // A counter that begins anywhere in its lower half (RFC 9562, 6.2, method 1) has room for all ids of a millisecond.
  last = now > last.msecs ? { msecs: now, seq: bytes.readUInt32BE(6) >>> 1 } : { msecs: last.msecs, seq: last.seq + 1 }
  return v7({ random: bytes, ...last })
}
