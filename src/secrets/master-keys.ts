import { createSecretKey, type KeyObject } from 'node:crypto'
import { derive, Unreadable } from './sealing.ts'

/** The keys that everything encrypted rests on, by their ids. New things are encrypted under the current one. */
export type MasterKeys = { currentId: string; byId: ReadonlyMap<string, KeyObject> }

/** Of keys in base64, 32 bytes each. `old` are those that were current before, for what is still encrypted under them. */
export function masterKeysOf(current: string, old: readonly string[] = []): MasterKeys {
  const keys = [current, ...old].map((text) => createSecretKey(text, 'base64'))
  const byId = new Map(keys.map((key) => [idOf(key), key]))
  const [currentId = ''] = byId.keys()
  return { currentId, byId }
}

/** The key with this id. Throws Unreadable when it is not configured. */
export function masterKey({ byId }: MasterKeys, id: string): KeyObject {
  const key = byId.get(id)
  if (!key) throw new Unreadable(`The master key ${id} is not configured. Add it to BULKHEAD_OLD_MASTER_KEYS.`)
  return key
}

/** An id follows from the key, so nobody has to number keys, and no key can come under another's number. */
function idOf(key: KeyObject): string {
  return derive(key, 'key id').export().toString('hex', 0, 8)
}
