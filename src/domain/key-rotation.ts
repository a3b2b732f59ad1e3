import type { Catalog } from '../data/catalog.ts'
import { isFenced } from '../data/fence.ts'
import type { StaleKeys } from '../data/key-register.ts'
import type { TenantId } from './ids.ts'
import type { Ports } from './ports.ts'
import type { Platform } from './scope.ts'

/** How far a rotation has come. `all` is what there was to do when it began. */
export type RotationProgress = { done: number; all: number }

/** What is under an older key. */
type Left = { dataKeys: number; databases: number }

/** What a rotation came to. Of what is left something kept it from being rewrapped: run it again. */
export type Rotation = {
  dataKeys: number
  databases: number
  left: Left
  /** Tenants whose data keys could not be rewrapped, and why. Those that are just being moved are left, and are no failure. */
  failures: { tenantId: TenantId; error: unknown }[]
}

export type RotationOptions = {
  /** Told after each tenant. */
  onProgress?: (progress: RotationProgress) => void
  /** Tenants at a time: a key service may take a while for each key. Default 8. */
  concurrency?: number
}

type Rotated = Pick<Platform, 'catalog' | 'data'> & { ports: Pick<Ports, 'vault'> }

/**
 * Puts everything that an older key of the platform encrypts under the current one: the URLs of databases, and every tenant's data keys. What
 * those encrypt stays as it is. Each row changes in one statement, and only from what it was read as, so that this may be interrupted
 * anywhere, run again, and run twice at once; whoever has both keys reads all rows throughout. One tenant's failure keeps no other's
 * keys from being rewrapped. Throws when a database does not answer.
 */
export async function rotateKeys(platform: Rotated, { onProgress, concurrency = 8 }: RotationOptions = {}): Promise<Rotation> {
  const { keys } = platform.catalog
  const { wrappingKeyId } = platform.ports.vault
  const databases = await keys.resealDatabases()
  const stale = await keys.staleKeys(wrappingKeyId)
  const failures: Rotation['failures'] = []
  const all = countOf(stale)
  const waiting = new Set(stale.map(({ tenantId }) => tenantId))
  let dataKeys = 0
  const rewrapInTurn = async () => {
    for (const tenantId of waiting) {
      waiting.delete(tenantId)
      try {
        const rewrapped = await rewrapKeysOf(platform, tenantId)
        dataKeys += rewrapped
      } catch (error) {
        if (!isFenced(error)) failures.push({ tenantId, error })
      }
      onProgress?.({ done: dataKeys, all })
    }
  }
  await Promise.all(Array.from({ length: concurrency }, rewrapInTurn))
  // Whoever still has an older key as the current one may have used it meanwhile.
  return { dataKeys, databases, left: await leftBehind(platform.catalog, wrappingKeyId), failures }
}

/** What other keys encrypt than this one. Throws when a database does not answer. */
export async function leftBehind({ keys }: Pick<Catalog, 'keys'>, wrappingKeyId: string): Promise<Left> {
  return { dataKeys: countOf(await keys.staleKeys(wrappingKeyId)), databases: await keys.staleDatabases() }
}

/** Answers how many were rewrapped. What somebody else was faster with is as good. */
async function rewrapKeysOf({ data, ports: { vault } }: Rotated, tenantId: TenantId): Promise<number> {
  const db = data.of({ tenantId, userId: null })
  let rewrapped = 0
  for (const key of await db.dataKey.findMany({ where: { wrappingKeyId: { not: vault.wrappingKeyId } } })) {
    const { id, wrappingKeyId } = key
    const fresh = await vault.rewrap(tenantId, key)
    if (!fresh) continue
    const { count } = await db.dataKey.updateMany({ where: { id, wrappingKeyId }, data: fresh })
    rewrapped += count
  }
  return rewrapped
}

function countOf(stale: readonly StaleKeys[]): number {
  return stale.reduce((sum, { keys }) => sum + keys, 0)
}
