import { inspectDatabase } from './boot-gate.ts'
import { DatabaseAway } from './outage.ts'
import type { Placements } from './placements.ts'
import type { TenantPool } from './tenant-pool.ts'
import type { Elsewhere } from './tenant-scope.ts'

/** The pools of tenants that have a database of their own. `open` makes one; each database passes the boot gate first. */
export function placedPools(placements: Placements, open: (appUrl: string) => TenantPool): Elsewhere {
  return {
    databaseOf: (tenantId) => placements.databaseOf(tenantId),
    refresh: () => placements.refresh(),
    async openPool(databaseId) {
      const { appUrl, name } = await placements.find(databaseId)
      const { refusals } = await inspectDatabase(appUrl).catch((error) => {
        throw new DatabaseAway(error)
      })
      if (refusals[0] !== undefined) throw new DatabaseAway(new Error(`${name} would not keep tenants apart. ${refusals[0]}`))
      return open(appUrl)
    },
  }
}
