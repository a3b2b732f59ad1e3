/** What Prisma's driver adapter says went wrong in the database: a kind of its own, and the SQLSTATE of what it has no kind for. */
type DriverFailure = { kind?: string; code?: string }
type DriverError = Error & { cause?: DriverFailure }

/** What the adapter said, be it in its own error or in the client's; null when neither is this. */
export function driverFailureOf(error: Error): DriverFailure | null {
  const { meta } = error as { meta?: { driverAdapterError?: DriverError } }
  if (meta?.driverAdapterError) return meta.driverAdapterError.cause ?? null
  return error.name === 'DriverAdapterError' ? ((error as DriverError).cause ?? null) : null
}
