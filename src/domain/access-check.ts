import { isFenced } from '../data/fence.ts'
import { Prisma } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { Problem, Unauthenticated, Unavailable } from './errors.ts'
import { requireWritable, type Scope } from './scope.ts'

/** Something of what the scope was made from has changed. Never leaves `checkingAccess`. */
class AccessChanged extends Error {}

/** SQL: whether the actor's key and tenant are, to the last column, as they were when the scope was made, and the key has not expired. */
export function isUnchanged({ tenant, actor, asOf, ports }: Scope): Prisma.Sql {
  return Prisma.sql`exists (
    select from tenants t join api_keys k on k.tenant_id = t.id
    where t.id = ${tenant.id}::uuid and k.id = ${actor.id}::uuid and t.xmin = ${asOf.tenant}::xid and k.xmin = ${asOf.key}::xid
      and (k.expires_at is null or k.expires_at > ${new Date(ports.now())}::timestamptz))`
}

/** Where no statement that had an effect has looked: ends an act of `checkingAccess` unless its scope is still true. Looks in `tx` if one is open. */
export async function requireUnchanged(scope: Scope, tx: TenantTransaction | null = null): Promise<void> {
  const look = Prisma.sql`select ${isUnchanged(scope)} as holds`
  const rows = tx ? tx.$queryRaw<Look[]>`${look}` : scope.db.$queryShort<Look[]>`${look}`
  const [row] = await rows
  if (!row?.holds) throw new AccessChanged()
}

type Look = { holds: boolean }

const mostRounds = 5

/**
 * Changes something with a scope that may have been made a while ago. Whatever `act` answers, it must have looked: by `isUnchanged` in the statement that
 * has its effect, or by `requireUnchanged`. What it throws that says anything of the tenant is thrown after a look, a Problem after `onProblem` was told.
 * Where the scope is not true any more, `act` begins anew with what it is now. Throws Unauthenticated when it is nothing, and Unavailable while the
 * tenant takes no changes.
 */
export async function checkingAccess<T>(
  scope: Scope,
  act: (scope: Scope) => Promise<T>,
  onProblem: (scope: Scope, problem: Problem) => void,
): Promise<T> {
  let current = scope
  for (let round = 0; round < mostRounds; round++) {
    try {
      return await changing(current, act)
    } catch (error) {
      if (error instanceof Problem) onProblem(current, error)
      if (!(error instanceof AccessChanged)) throw error
    }
    const renewed = await current.renew()
    if (!renewed) throw new Unauthenticated()
    current = renewed
  }
  throw new Unavailable('The tenant is being changed. Try again shortly.', 1)
}

async function changing<T>(scope: Scope, act: (scope: Scope) => Promise<T>): Promise<T> {
  try {
    requireWritable(scope)
    return await act(scope)
  } catch (error) {
    if (error instanceof Problem || error instanceof Unavailable || isFenced(error)) await requireUnchanged(scope)
    throw error
  }
}
