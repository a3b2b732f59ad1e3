import { driverFailureOf } from './driver-failure.ts'

/** The SQLSTATE that the trigger `fence` raises: the tenant is being moved to another database, or erased. */
const fenced = 'BH001'

/** Whether a write was refused since this database does not take the tenant's rows any more, whoever sends them. */
export function isFenced(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return (error as Error & { code?: string }).code === fenced || driverFailureOf(error)?.code === fenced
}
