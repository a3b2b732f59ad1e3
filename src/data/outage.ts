import { driverFailureOf } from './driver-failure.ts'

/** What Prisma's driver adapter for pg makes of a connection's failures (`@prisma/adapter-pg`, `convertDriverError`). */
const kinds = new Set(['DatabaseNotReachable', 'ConnectionClosed', 'SocketTimeout', 'TooManyConnections'])

/** SQLSTATE of broken connections (class 08), and of a server that shuts down, crashed or starts up (57P01 to 57P03). */
const states = /^(?:08...|57P0[123])$/

/** Socket errors that the adapter hands on as they are, a refusal on all addresses of a name among them. */
const socketCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
])

/** What pg, its pool and Prisma's transactions say of a connection that broke or was not to be had in time, without a code. */
const messages =
  /^(?:Connection terminated|timeout exceeded when trying to connect|timeout expired|Client (?:has encountered|was closed))|Unable to start a transaction in the given time/

/** A tenant's own database is not to be had right now. */
export class DatabaseAway extends Error {
  constructor(cause: unknown) {
    super("The tenant's database cannot be reached.", { cause })
    this.name = 'DatabaseAway'
  }
}

type DatabaseError = Error & { code?: string }

/**
 * Whether `error` means that the database could not be reached, or gave no connection in time, and not that it refused what
 * was asked: the same request may succeed later. A write that was under way may or may not have been committed.
 */
export function isOutage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (error instanceof DatabaseAway) return true
  const { code, message } = error as DatabaseError
  const failure = driverFailureOf(error)
  if (failure) return kinds.has(failure.kind ?? '') || states.test(failure.code ?? '')
  return socketCodes.has(code ?? '') || states.test(code ?? '') || messages.test(message)
}
