import type { TenantDb } from '../data/tenant-scope.ts'
import type { Principal } from './authenticate.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import type { TenantId } from './ids.ts'
import type { DateRange } from './ledger-sums.ts'
import { residentOf } from './quota.ts'
import { requireRole } from './scope.ts'
import { latestTime } from './time.ts'

/** A tenant's ledger, for somebody who may read it. */
export type Ledger = { db: TenantDb; tenantId: TenantId }

/**
 * The ledger of the principal's own tenant, or for operators of the one they name. Throws Forbidden for end users, NotFound for a tenant
 * that is not there, is erased, or is another's, and a ValidationProblem for operators who name none.
 */
export async function ledgerOf(principal: Principal, tenantId: string | null | undefined): Promise<Ledger> {
  if (principal.kind === 'operator') {
    if (tenantId == null) throw new ValidationProblem(['tenantId'], 'Say whose: operators have no tenant of their own.')
    const { id } = (await residentOf(principal.operator, tenantId)).owner.tenant
    return { db: principal.operator.data.of({ tenantId: id, userId: null }), tenantId: id }
  }
  const { scope } = principal
  requireRole(scope, 'MEMBER')
  if (tenantId != null && tenantId !== scope.tenant.id) throw new NotFound('tenant')
  return { db: scope.db, tenantId: scope.tenant.id }
}

/** The longest range, a leap year, in milliseconds. */
const longestRange = 366 * 24 * 3_600_000

/** Throws a ValidationProblem at `path` for a range that is empty, backwards, longer than a year, or before 1970. */
export function checkRange({ from, to }: DateRange, path: readonly string[]): void {
  if (from.getTime() < 0 || to.getTime() > latestTime)
    throw new ValidationProblem(path, 'A range lies in the years 1970 to 9999.')
  if (from >= to) throw new ValidationProblem(path, 'The range must end after it begins.')
  if (to.getTime() - from.getTime() > longestRange) throw new ValidationProblem(path, 'A range is a year at most.')
}
