import { inspectDatabase } from './boot-gate.ts'
import { type DatabaseUrls, type PlacedDatabase, storeDatabase, type UrlCipher, urlsBeside } from './database-address.ts'
import { migrate } from './migrate.ts'
import { bringTariff } from './placement-target.ts'
import type { Placements } from './placements.ts'

export type UpkeepOptions = {
  /** How the catalogue's own database is connected to. The logins of the others are brought to the same; null leaves all as it is. */
  migrateLike: Pick<DatabaseUrls, 'appUrl' | 'platformUrl'> | null
  cipher: UrlCipher
  onProgress: (message: string) => void
}

/** What became of one database: `problem` is why it cannot be used now, `refusals` why it must not be. */
export type Upkeep = { name: string; applied: string[]; refusals: string[]; warnings: string[]; problem: Error | null }

/**
 * Brings every database besides the catalogue's own to this version, with the administrator's URL that it was named with, and its
 * prices and plans to the catalogue's; then inspects it. One that fails keeps none of the others from it. Throws when an URL cannot be read.
 */
export async function keepUp(placements: Placements, options: UpkeepOptions): Promise<Upkeep[]> {
  const outcomes: Upkeep[] = []
  for (const database of await placements.list()) {
    const common = { name: database.name, applied: [], refusals: [], warnings: [] }
    outcomes.push(
      await keepUpOne(placements, database, options).catch((error) => {
        return { ...common, problem: error instanceof Error ? error : new Error(String(error)) }
      }),
    )
  }
  return outcomes
}

async function keepUpOne(placements: Placements, database: PlacedDatabase, options: UpkeepOptions): Promise<Upkeep> {
  const { migrateLike, cipher, onProgress } = options
  const { name, adminUrl } = database
  const { pool: catalogue } = await placements.at(null)
  const urls = migrateLike ? urlsBeside(adminUrl, migrateLike) : database
  let applied: string[] = []
  if (migrateLike) {
    const migrated = await migrate({ ...urls, onProgress: (message) => onProgress(`${name}: ${message}`) })
    applied = migrated.applied
    // Also under the current key, when another was.
    await storeDatabase(catalogue, cipher, urls)
  }
  await bringTariff(catalogue, urls.platformUrl)
  return { name, applied, ...(await inspectDatabase(urls.appUrl)), problem: null }
}
