import { Prisma } from '../data/generated/client.ts'
import { Unauthenticated, Unavailable } from './errors.ts'
import type { Scope } from './scope.ts'

/** Something of what the scope was made from has changed. `now` is what it would be made into now; null when nobody signs in by it any more. */
class AccessChanged extends Error {
  readonly now: Scope | null

  constructor(now: Scope | null) {
    super('What is known of the credentials is not true any more.')
    this.now = now
  }
}

/** SQL: whether the actor's key and tenant are, to the last column, as they were when the scope was made. */
export function isUnchanged({ tenant, actor, asOf }: Scope): Prisma.Sql {
  return Prisma.sql`exists (
    select from tenants t join api_keys k on k.tenant_id = t.id
    where t.id = ${tenant.id}::uuid and k.id = ${actor.id}::uuid and t.xmin = ${asOf.tenant}::xid and k.xmin = ${asOf.key}::xid)`
}

/** What `isUnchanged` is for: ends an act that `checkingAccess` began, if need be, before anything comes of it. */
export async function requireUnchanged(scope: Scope): Promise<void> {
  const now = await scope.renew()
  if (now?.asOf.tenant !== scope.asOf.tenant || now.asOf.key !== scope.asOf.key) throw new AccessChanged(now)
}

const mostRounds = 5

/**
 * Acts with a scope that may have been made a while ago, if `act` makes sure by the statement that has its effect that it is still true. Where it is not,
 * `act` begins anew with the scope as it is now. Throws Unauthenticated when there is none.
 */
export async function checkingAccess<T>(scope: Scope, act: (scope: Scope) => Promise<T>): Promise<T> {
  let current = scope
  for (let round = 0; round < mostRounds; round++) {
    try {
      return await act(current)
    } catch (error) {
      if (!(error instanceof AccessChanged)) throw error
      if (!error.now) throw new Unauthenticated()
      current = error.now
    }
  }
  throw new Unavailable('The tenant is being changed. Try again shortly.', 1)
}
