import { Prisma } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'

/** The next moment of the conversation that a statement knows as `c`: later than everything in it, and in general `now`. */
export function nextMoment(now: number): Prisma.Sql {
  return Prisma.sql`greatest(${new Date(now)}::timestamptz, c.updated_at + interval '1 millisecond')`
}

/**
 * Takes the next moment of the conversation for what `tx` adds to it, and holds the conversation until `tx` ends. What is said in a
 * conversation thereby has one order, however many instances write and however their clocks differ. Whoever locks a run of the
 * conversation too calls this first, so that no two wait for each other. Null when it does not exist.
 */
export async function advanceConversation(
  tx: TenantTransaction,
  tenantId: TenantId,
  conversationId: string,
  now: number,
): Promise<Date | null> {
  const [place] = await tx.$queryRaw<{ at: Date }[]>`
    update conversations c
    set updated_at = ${nextMoment(now)}
    where c.tenant_id = ${tenantId}::uuid and c.id = ${conversationId}::uuid
    returning c.updated_at as "at"`
  return place?.at ?? null
}
