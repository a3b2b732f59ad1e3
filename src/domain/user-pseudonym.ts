import type { TenantTransaction } from '../data/tenant-scope.ts'
import { newId } from './ids.ts'

/**
 * The random id under which the ledger knows an end user, made when it is first needed; null for the tenant's staff. The ledger
 * outlives the tenant. Erasing this mapping makes it anonymous without changing a row of it.
 */
export async function pseudonymOf(tx: TenantTransaction, tenantId: string, userId: string | null): Promise<string | null> {
  if (userId === null) return null
  const known = await tx.userPseudonym.findFirst({ where: { userId }, select: { id: true } })
  if (known) return known.id
  // Waits for another transaction that is making the same one.
  await tx.userPseudonym.createMany({ data: { id: newId(), tenantId, userId }, skipDuplicates: true })
  return (await tx.userPseudonym.findFirstOrThrow({ where: { userId }, select: { id: true } })).id
}
