import { randomUUID } from 'node:crypto'
import { type ExecutionResult, GraphQLError, type GraphQLFormattedError, Kind } from 'graphql'
import type { Logger } from 'pino'
import { isFenced } from '../data/fence.ts'
import { isOutage } from '../data/outage.ts'
import { Problem, Unauthenticated, Unavailable } from '../domain/errors.ts'

/** What the HTTP transport makes of an error. Other transports leave it out. */
type Http = { status?: number; headers?: Record<string, string>; spec?: boolean }

export type ErrorMask = (error: unknown) => GraphQLError

/** Seconds after which a client may try again when nothing better is known. */
const retryAfterSeconds = 2

/** A request that cannot be served as it was sent. `status` is the HTTP status. */
export function badRequest(message: string, status = 400): GraphQLError {
  return new GraphQLError(message, { extensions: { code: 'BAD_USER_INPUT', http: { status } } })
}

/**
 * Turns whatever was raised into one of the coded errors of the API, and lets nothing else reach a client. What nobody
 * expected becomes INTERNAL with an `errorId`, under which it is logged.
 */
export function createErrorMask(logger: Logger): ErrorMask {
  return (error) => {
    const located = error instanceof GraphQLError ? error : null
    const cause = rootCause(error)
    const coded = (code: string, message: string, http?: Http, more: Record<string, unknown> = {}) =>
      new GraphQLError(message, { ...placeOf(error), extensions: { code, ...more, ...(http && { http }) } })

    if (cause instanceof Unauthenticated) {
      return coded('UNAUTHENTICATED', cause.message, { status: 401, headers: { 'WWW-Authenticate': 'Bearer' } })
    }
    if (cause instanceof Problem) return coded(codes[cause.code], cause.message)
    const unavailable = unavailableOf(cause)
    if (unavailable) {
      if (isOutage(cause)) logger.warn({ err: cause }, unavailable.message)
      const seconds = unavailable.retryAfterSeconds
      const http = { status: 503, headers: { 'Retry-After': String(seconds) } }
      return coded('SERVICE_UNAVAILABLE', unavailable.message, http, { retryAfterSeconds: seconds })
    }
    if (cause instanceof GraphQLError && isClientFault(located)) {
      const http = cause.extensions['http'] as Http | undefined
      return coded('BAD_USER_INPUT', cause.message, http ?? (located?.path ? undefined : { spec: true, status: 400 }))
    }
    const errorId = randomUUID()
    logger.error({ err: cause, errorId }, 'Unexpected error.')
    return coded('INTERNAL', `Something went wrong here. Report it as ${errorId}.`, located ? undefined : { status: 500 }, {
      errorId,
    })
  }
}

/** An error as a client sees it. */
export function publicError(error: GraphQLError): GraphQLFormattedError {
  const { extensions, ...rest } = error.toJSON()
  const { http: _http, ...shown } = extensions ?? {}
  return { ...rest, extensions: shown }
}

/** A result as a client sees it: what is for the HTTP transport alone is left out. */
export function publicResult<Result extends ExecutionResult>(result: Result): Result {
  if (!result.errors && !result.extensions) return result
  const { http: _http, ...extensions } = result.extensions ?? {}
  const { extensions: _extensions, ...rest } = result
  const shown = { ...rest, ...(result.errors && { errors: result.errors.map(publicError) }) }
  return (Object.keys(extensions).length > 0 ? { ...shown, extensions } : shown) as Result
}

/** What cannot be done now and may be later; null for everything else. */
function unavailableOf(cause: unknown): Unavailable | null {
  if (cause instanceof Unavailable) return cause
  if (isFenced(cause))
    return new Unavailable('The tenant is being moved or erased: nothing of it is changed now.', retryAfterSeconds)
  return isOutage(cause) ? new Unavailable('The database cannot be reached.', retryAfterSeconds) : null
}

const codes: Record<Problem['code'], string> = {
  VALIDATION: 'BAD_USER_INPUT',
  NOT_FOUND: 'NOT_FOUND',
  FORBIDDEN: 'FORBIDDEN',
  CONFLICT: 'BAD_USER_INPUT',
  QUOTA_EXCEEDED: 'QUOTA_EXCEEDED',
  BUDGET_EXHAUSTED: 'BUDGET_EXHAUSTED',
}

/** Where in the request an error lies. */
function placeOf(error: unknown) {
  if (!(error instanceof GraphQLError)) return {}
  const { nodes, source, positions, path } = error
  return { nodes, source, positions, path }
}

function rootCause(error: unknown): unknown {
  let cause = error
  while (cause instanceof GraphQLError && cause.originalError) cause = cause.originalError
  return cause
}

/**
 * Errors of graphql-js itself. Before execution they are about the request. During it, they are about an argument when
 * they point at one, and about what a resolver returned when they point at the field.
 */
function isClientFault(error: GraphQLError | null): boolean {
  return !error?.path || error.nodes?.[0]?.kind !== Kind.FIELD
}
