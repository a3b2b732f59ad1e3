import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import type { Authenticator, Principal } from '../domain/authenticate.ts'
import { Forbidden, NotFound } from '../domain/errors.ts'
import type { Scope } from '../domain/scope.ts'
import { type ArchiveSink, findTenantExport, sendArchive, TooManyExports } from '../domain/tenant-export.ts'
import { Unauthenticated } from '../schema/context.ts'
import { decodeId } from '../schema/global-id.ts'
import { bearer } from './credential.ts'
import type { ErrorMask } from './errors.ts'
import type { Sessions } from './sessions.ts'

export type ExportsOptions = {
  authenticate: Authenticator
  sessions: Sessions
  mask: ErrorMask
  /** Archives that this process sends at a time: each holds a connection to the database. */
  most: number
}

/** Where exports are fetched: `/exports/<id>`. */
export const exportsPath = '/exports/'

/**
 * Answers `GET /exports/<id>` with the archive, made while it is sent, for admins of its tenant. 401, 403, 404 (also for what is
 * another tenant's, and for what is no id), 405, 410 when it has expired, and 429 and 503 with a Retry-After. What is cut off later
 * ends the connection: an archive without its last line is not whole.
 */
export function createExports({ authenticate, sessions, mask, most }: ExportsOptions) {
  let sending = 0

  async function serve(request: IncomingMessage, response: ServerResponse, id: string): Promise<void> {
    if (request.method !== 'GET') return refuse(response, 405, 'Fetch exports with GET.', { Allow: 'GET' })
    const gone = new AbortController()
    const leave = () => gone.abort(new Error('Nobody takes the archive any more.'))
    // From the start: a client that leaves while its credentials are checked is not told of afterwards.
    response.once('close', leave)
    const credential = bearer(request.headers.authorization)
    const principal = await authenticate(credential)
    if (!principal) throw new Unauthenticated()
    const scope = adminOf(principal)
    const uuid = decodeId('TenantExport', id)
    const found = await findTenantExport(scope, uuid)
    if (!found) throw new NotFound('export')
    if (found.expiresAt.getTime() <= scope.ports.now())
      return refuse(response, 410, 'The export has expired. Ask for another one.')
    if (sending >= most) throw new TooManyExports()
    sending++
    const unwatch = sessions.watch(credential, principal, leave)
    try {
      await sendArchive(scope, uuid, gzipTo(response, id, gone.signal))
    } finally {
      unwatch()
      sending--
    }
  }

  return async (request: IncomingMessage, response: ServerResponse, id: string): Promise<void> => {
    try {
      await serve(request, response, id)
    } catch (error) {
      // Whoever was cut off, or left, is not told why: the bytes so far are not an answer.
      if (response.headersSent || response.destroyed) response.destroy()
      else refuseWith(response, error, mask)
    }
  }
}

function adminOf(principal: Principal): Scope {
  if (principal.kind !== 'tenant') throw new Forbidden()
  return principal.scope
}

/** A sink into the response, whose head goes out with the first bytes. It takes no more than the client does. */
function gzipTo(response: ServerResponse, id: string, gone: AbortSignal): ArchiveSink {
  const gzip = createGzip()
  let sent: Promise<void> | null = null
  const begin = () => {
    response.writeHead(200, {
      'Content-Type': 'application/gzip',
      'Content-Disposition': `attachment; filename="${id}.ndjson.gz"`,
      'Cache-Control': 'no-store',
    })
    const piped = pipeline(gzip, response, { signal: gone })
    // Whoever writes next, or waits for the end, is told.
    piped.catch(() => undefined)
    return piped
  }
  return {
    async write(text) {
      sent ??= begin()
      gone.throwIfAborted()
      if (!gzip.write(text)) await once(gzip, 'drain', { signal: gone })
    },
    async end() {
      gzip.end()
      await sent
    },
  }
}

/** Problems that answer by a status of their own; all others are the mask's. */
const statuses: Readonly<Record<string, number>> = { NOT_FOUND: 404, FORBIDDEN: 403 }

function refuseWith(response: ServerResponse, error: unknown, mask: ErrorMask): void {
  const { message, extensions } = mask(error)
  const http = extensions['http'] as { status?: number; headers?: Record<string, string> } | undefined
  const status = error instanceof TooManyExports ? 429 : (http?.status ?? statuses[String(extensions['code'])] ?? 500)
  refuse(response, status, message, http?.headers)
}

function refuse(response: ServerResponse, status: number, message: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { ...headers, 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' })
  response.end(`${message}\n`)
}
