import type { PlatformCipher } from '../domain/ports.ts'
import { type MasterKeys, masterKey } from './master-keys.ts'
import { derive, seal, unseal } from './sealing.ts'

/** Encrypts under keys that follow from the master keys, and that encrypt nothing else. */
export function createPlatformCipher(masterKeys: MasterKeys): PlatformCipher {
  const keyOf = (id: string) => derive(masterKey(masterKeys, id), 'platform values')
  return {
    keyId: masterKeys.currentId,
    async seal(purpose, text) {
      return seal(keyOf(masterKeys.currentId), [purpose], Buffer.from(text))
    },
    async open(purpose, keyId, sealed) {
      return unseal(keyOf(keyId), [purpose], sealed).toString()
    },
  }
}
