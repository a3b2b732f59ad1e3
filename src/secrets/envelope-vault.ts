import { createHmac, createSecretKey, randomBytes } from 'node:crypto'
import type { TenantId } from '../domain/ids.ts'
import type { SecretCipher, Vault, WrappedKey } from '../domain/ports.ts'
import { KeyCache, type KeyCacheOptions } from './key-cache.ts'
import type { KeyProvider } from './key-provider.ts'
import { derive, keyBytes, seal, Unreadable, unseal } from './sealing.ts'

/** Envelope encryption: values under data keys, data keys under the keys of a provider. */
export class EnvelopeVault implements Vault {
  readonly #provider: KeyProvider
  readonly #open: KeyCache<SecretCipher>

  constructor(provider: KeyProvider, options?: KeyCacheOptions) {
    this.#provider = provider
    this.#open = new KeyCache(options)
  }

  get wrappingKeyId(): string {
    return this.#provider.currentKeyId
  }

  async createKey(tenantId: TenantId): Promise<WrappedKey> {
    const dataKey = randomBytes(keyBytes)
    try {
      return await this.#provider.wrap(tenantId, dataKey)
    } finally {
      dataKey.fill(0)
    }
  }

  unlock(tenantId: TenantId, key: WrappedKey & { id: string }): Promise<SecretCipher> {
    return this.#open.get(tenantId, key.id, async () => secretCipher(tenantId, await this.#provider.unwrap(tenantId, key)))
  }

  async rewrap(tenantId: TenantId, key: WrappedKey): Promise<WrappedKey | null> {
    if (key.wrappingKeyId === this.wrappingKeyId) return null
    const dataKey = await this.#provider.unwrap(tenantId, key)
    try {
      const rewrapped = await this.#provider.wrap(tenantId, dataKey)
      // It takes the place of the only other one there is.
      const reopened = await this.#provider.unwrap(tenantId, rewrapped)
      const isSame = dataKey.equals(reopened)
      reopened.fill(0)
      if (!isSame) throw new Unreadable('The key provider gives back another data key than it was given.')
      return rewrapped
    } finally {
      dataKey.fill(0)
    }
  }

  forget(tenantId: TenantId): void {
    this.#open.forget(tenantId)
  }
}

/** Takes the bytes of the key over, and wipes them. */
function secretCipher(tenantId: TenantId, bytes: Buffer): SecretCipher {
  const dataKey = createSecretKey(bytes)
  bytes.fill(0)
  const encryption = derive(dataKey, 'secrets')
  const comparison = derive(dataKey, 'fingerprints')
  return {
    encrypt: (secretId, value) => seal(encryption, [tenantId, secretId], Buffer.from(value)),
    decrypt: (secretId, ciphertext) => unseal(encryption, [tenantId, secretId], ciphertext).toString(),
    fingerprint: (value) => createHmac('sha256', comparison).update(value).digest('hex'),
  }
}
