import { Prisma } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { Problem, Unauthenticated, Unavailable } from './errors.ts'
import type { Scope } from './scope.ts'

/** Something of what the scope was made from has changed. Never leaves `checkingAccess`. */
class AccessChanged extends Error {}

/** SQL: whether the actor's key and tenant are, to the last column, as they were when the scope was made. */
export function isUnchanged({ tenant, actor, asOf }: Scope): Prisma.Sql {
  return Prisma.sql`exists (
    select from tenants t join api_keys k on k.tenant_id = t.id
    where t.id = ${tenant.id}::uuid and k.id = ${actor.id}::uuid and t.xmin = ${asOf.tenant}::xid and k.xmin = ${asOf.key}::xid)`
}

/** Where no statement that had an effect has looked: ends an act of `checkingAccess` unless its scope is still true. */
export async function requireUnchanged(scope: Scope, db: TenantTransaction = scope.db): Promise<void> {
  const [row] = await db.$queryRaw<{ holds: boolean }[]>`select ${isUnchanged(scope)} as holds`
  if (!row?.holds) throw new AccessChanged()
}

const mostRounds = 5

/**
 * Acts with a scope that may have been made a while ago. Whatever `act` answers, it must have looked: by `isUnchanged` in the statement that has its
 * effect, or by `requireUnchanged`. A Problem that it throws is told of after a look. Where the scope is not true any more, `act` begins anew with what it
 * is now. Throws Unauthenticated when it is nothing.
 */
export async function checkingAccess<T>(scope: Scope, act: (scope: Scope) => Promise<T>): Promise<T> {
  let current = scope
  for (let round = 0; round < mostRounds; round++) {
    try {
      return await act(current).catch(async (error) => {
        if (error instanceof Problem) await requireUnchanged(current)
        throw error
      })
    } catch (error) {
      if (!(error instanceof AccessChanged)) throw error
    }
    const renewed = await current.renew()
    if (!renewed) throw new Unauthenticated()
    current = renewed
  }
  throw new Unavailable('The tenant is being changed. Try again shortly.', 1)
}
