import type { TenantId } from '../domain/ids.ts'
import type { Prisma, PrismaClient } from './generated/client.ts'
import type { Placements } from './placements.ts'

export type TransactionClient = Prisma.TransactionClient

/**
 * Runs `work` in a transaction of the catalogue while the tenant stays where it is, and nobody else holds it. What is done `atHome` is
 * one transaction of the database that has the tenant's rows. False, and nothing is done, when there is no such tenant, or it is erased.
 */
export async function holdTenant(
  catalogue: PrismaClient,
  placements: Placements,
  tenantId: TenantId,
  work: (tx: TransactionClient, atHome: <T>(change: (home: TransactionClient) => Promise<T>) => Promise<T>) => Promise<void>,
): Promise<boolean> {
  return catalogue.$transaction(async (tx) => {
    const [tenant] = await tx.$queryRaw<{ databaseId: string | null }[]>`
      select database_id as "databaseId" from tenants where id = ${tenantId}::uuid and status <> 'ERASED' for no key update`
    if (!tenant) return false
    const { databaseId } = tenant
    await work(tx, async (change) => {
      if (databaseId === null) return change(tx)
      const { client } = await placements.at(databaseId)
      return client.$transaction(change)
    })
    return true
  })
}
