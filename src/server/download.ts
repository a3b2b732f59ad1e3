import { once } from 'node:events'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { PassThrough, type Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Authenticator, Principal } from '../domain/authenticate.ts'
import { Unauthenticated } from '../domain/errors.ts'
import { type ExportSink, TooManyExports } from '../domain/export-snapshot.ts'
import { bearer } from './credential.ts'
import type { ErrorMask } from './errors.ts'
import type { Sessions } from './sessions.ts'

export type DownloadOptions = {
  authenticate: Authenticator
  sessions: Sessions
  mask: ErrorMask
  /** Downloads that this process sends at a time, at least two: each holds a connection to the database. One tenant gets all but one. */
  most: number
}

/** What is sent to somebody who may have it. */
export type Download = {
  headers: OutgoingHttpHeaders
  /** What the text goes through on its way, such as a compression. Default nothing. */
  through?: () => Transform
  /** Writes all of it. What it throws before it has written anything is answered, and cuts off the rest afterwards. */
  send: (sink: ExportSink) => Promise<void>
}

/** What the principal is to be sent. What it throws is answered: an `Answered` as it says, all else as the mask does. */
export type Prepare = (principal: Principal, request: IncomingMessage) => Promise<Download>

/** An answer with a status of its own in the place of a download. */
export class Answered extends Error {
  readonly status: number
  readonly headers: Record<string, string>

  constructor(status: number, message: string, headers: Record<string, string> = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

/**
 * Answers GET with what is made while it is sent. It is sent no faster than the client takes it, and ends when the client leaves, or its
 * credential is not valid any more. 400, 401, 403, 404, 405, and 429 and 503 with a Retry-After. What is cut off later ends the
 * connection, so that nobody takes a part for the whole.
 */
export class Downloads {
  readonly #options: DownloadOptions
  /** Of whom each download under way is. */
  readonly #sending: string[] = []

  constructor(options: DownloadOptions) {
    this.#options = options
  }

  async answer(request: IncomingMessage, response: ServerResponse, prepare: Prepare): Promise<void> {
    try {
      await this.#serve(request, response, prepare)
    } catch (error) {
      // Whoever was cut off, or left, is not told why: the bytes so far are not an answer.
      if (response.headersSent || response.destroyed) response.destroy()
      else refuseWith(response, error, this.#options.mask)
    }
  }

  async #serve(request: IncomingMessage, response: ServerResponse, prepare: Prepare): Promise<void> {
    const { authenticate, sessions, most } = this.#options
    if (request.method !== 'GET') throw new Answered(405, 'Fetch exports with GET.', { Allow: 'GET' })
    const gone = new AbortController()
    const leave = () => gone.abort(new Error('Nobody takes the export any more.'))
    // From the start: a client that leaves while its credentials are checked is not told of afterwards.
    response.once('close', leave)
    const credential = bearer(request.headers.authorization)
    const principal = await authenticate(credential)
    if (!principal) throw new Unauthenticated()
    const download = await prepare(principal, request)
    const owner = principal.kind === 'tenant' ? principal.scope.tenant.id : 'operators'
    const own = this.#sending.filter((each) => each === owner).length
    if (this.#sending.length >= most || own >= most - 1) throw new TooManyExports()
    this.#sending.push(owner)
    const unwatch = sessions.watch(credential, principal, leave)
    try {
      await download.send(sinkInto(response, download, gone.signal))
    } finally {
      unwatch()
      this.#sending.splice(this.#sending.indexOf(owner), 1)
    }
  }
}

/** A sink into the response, whose head goes out with the first bytes. It takes no more than the client does. */
function sinkInto(response: ServerResponse, { headers, through: open }: Download, gone: AbortSignal): ExportSink {
  const through = open?.() ?? new PassThrough()
  let sent: Promise<void> | null = null
  const begin = () => {
    response.writeHead(200, { ...headers, 'Cache-Control': 'no-store' })
    const piped = pipeline(through, response, { signal: gone })
    // Whoever writes next, or waits for the end, is told.
    piped.catch(() => undefined)
    return piped
  }
  return {
    async write(text) {
      sent ??= begin()
      gone.throwIfAborted()
      if (!through.write(text)) await once(through, 'drain', { signal: gone })
    },
    async end() {
      through.end()
      await sent
    },
  }
}

/** Problems that answer by a status of their own; all others are the mask's. */
const statuses: Readonly<Record<string, number>> = { NOT_FOUND: 404, FORBIDDEN: 403, BAD_USER_INPUT: 400 }

function refuseWith(response: ServerResponse, error: unknown, mask: ErrorMask): void {
  if (error instanceof Answered) {
    refuse(response, error.status, error.message, error.headers)
    return
  }
  const { message, extensions } = mask(error)
  const http = extensions['http'] as { status?: number; headers?: Record<string, string> } | undefined
  const status = error instanceof TooManyExports ? 429 : (http?.status ?? statuses[String(extensions['code'])] ?? 500)
  refuse(response, status, message, http?.headers)
}

function refuse(response: ServerResponse, status: number, message: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { ...headers, 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' })
  response.end(`${message}\n`)
}
