/** The SQLSTATE that the trigger `fence` raises: the tenant is being moved to another database, or erased. */
const fenced = 'BH001'

type DatabaseError = Error & { code?: string; meta?: { driverAdapterError?: { cause?: { code?: string } } } }

/** Whether a write was refused since this database does not take the tenant's rows any more, whoever sends them. */
export function isFenced(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { code, meta } = error as DatabaseError
  return code === fenced || meta?.driverAdapterError?.cause?.code === fenced
}
