import type { TenantId } from '../domain/ids.ts'
import type { WrappedKey } from '../domain/ports.ts'
import { type MasterKeys, masterKey } from './master-keys.ts'
import { derive, seal, unseal } from './sealing.ts'

/**
 * Wraps data keys under keys that it keeps to itself, as a key management service does. What is wrapped is opaque, and is
 * unwrapped for the tenant that it was wrapped for alone.
 */
export type KeyProvider = {
  /** The key that `wrap` uses. Keys that were current before still unwrap. */
  readonly currentKeyId: string
  wrap(tenantId: TenantId, dataKey: Uint8Array): Promise<WrappedKey>
  unwrap(tenantId: TenantId, key: WrappedKey): Promise<Buffer>
}

/** Wraps under keys that follow from the master keys, in this process. */
export function createLocalKeyProvider(masterKeys: MasterKeys): KeyProvider {
  const { currentId } = masterKeys
  const wrappingKey = (id: string) => derive(masterKey(masterKeys, id), 'data keys')
  return {
    currentKeyId: currentId,
    async wrap(tenantId, dataKey) {
      return { wrappedKey: seal(wrappingKey(currentId), ['data key', tenantId], dataKey), wrappingKeyId: currentId }
    },
    async unwrap(tenantId, { wrappedKey, wrappingKeyId }) {
      return unseal(wrappingKey(wrappingKeyId), ['data key', tenantId], wrappedKey)
    },
  }
}
