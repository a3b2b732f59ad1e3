import { createServer as createHttpServer, type Server as HttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Logger } from 'pino'
import type { Authenticator } from '../domain/authenticate.ts'
import type { Signals } from '../domain/ports.ts'
import { before } from './deadline.ts'
import { Downloads } from './download.ts'
import { createErrorMask } from './errors.ts'
import { createExports, exportsPath } from './exports.ts'
import { contentSecurityPolicy } from './graphiql.ts'
import { createGraphQL } from './graphql.ts'
import { defaultLimits, type Limits } from './limits.ts'
import type { Metrics } from './metrics.ts'
import { type AccessVersions, Sessions } from './sessions.ts'
import { Sockets } from './sockets.ts'
import { createUsageExport, usagePath } from './usage-export.ts'

export type ServerOptions = {
  authenticate: Authenticator
  signals: Signals
  accessVersions: AccessVersions
  logger: Logger
  /** What differs from `defaultLimits`. */
  limits?: Partial<Limits>
  /** Origins whose pages may call the API and open sockets, besides the server's own. Default none. */
  allowedOrigins?: string[]
  /** Serves GraphiQL, introspection and suggestions. */
  development: boolean
  /** Serves the API. Without it only the health checks are answered. Default true. */
  api?: boolean
  /** What is measured, for `/metrics`. Default none, and there is no such path. */
  metrics?: Metrics | null
  /** Whether requests can be served now. */
  isReady: () => Promise<boolean>
}

export type Server = {
  /** Resolves when connections are accepted. Port 0 takes any free one. */
  listen(port: number, host: string): Promise<{ url: string }>
  /** Accepts nothing more, ends sockets (1001) and event streams, and lets requests finish. Takes at most `graceMs`. */
  close(graceMs: number): Promise<void>
}

/** The HTTP and WebSocket edge: the API on /graphql, archives on /exports, the ledger on /usage, the health checks, the metrics, nothing else. */
export function createServer(options: ServerOptions): Server {
  const { signals, accessVersions, logger, allowedOrigins = [], development, api = true, metrics = null } = options
  const limits = { ...defaultLimits, ...options.limits }
  const inTime = <T>(work: Promise<T>) => before(performance.now() + limits.answerMs, work)
  const authenticate: Authenticator = (credential) => inTime(options.authenticate(credential))
  const mask = createErrorMask(logger)
  const sessions = new Sessions({
    // Nobody waits for these checks.
    authenticate: options.authenticate,
    signals,
    accessVersions,
    pollMs: limits.pollMs,
    onError: (err) => logger.warn({ err }, 'Credentials could not be checked again.'),
  })
  const graphql = createGraphQL({ authenticate, sessions, mask, limits, metrics, allowedOrigins, development })
  const sockets = new Sockets({ graphql, authenticate, sessions, mask, limits, logger })
  const downloads = new Downloads({ authenticate, sessions, mask, most: limits.exports })
  const [serveExport, serveUsage] = [createExports(downloads), createUsageExport(downloads)]
  let closing: Promise<void> | null = null

  const http = createHttpServer((request, response) => {
    response.setHeader('X-Content-Type-Options', 'nosniff')
    if (!isHost(request.headers.host)) return answer(response, 400, 'The Host header is not valid.')
    if (metrics && pathOf(request) === '/metrics') return void metrics.answer(request, response)
    if (!api && !pathOf(request)?.startsWith('/health/'))
      return answer(response, 404, 'This process executes runs and serves no API.')
    const path = pathOf(request)
    if (path?.startsWith(exportsPath)) return void serveExport(request, response, path.slice(exportsPath.length))
    switch (path) {
      case '/graphql':
        response.setHeader('Content-Security-Policy', contentSecurityPolicy)
        return void graphql.requestListener(request, response)
      case usagePath:
        return void serveUsage(request, response)
      case '/health/live':
        return answer(response, 200, 'live')
      case '/health/ready':
        return void answerReadiness(response)
      case '/':
        return answer(response, 200, 'This is Bulkhead. Its GraphQL API is at /graphql: open it in a browser for GraphiQL.')
      default:
        return answer(response, 404, 'Not found.')
    }
  })

  http.timeout = limits.stalledMs
  http.on('upgrade', (request: IncomingMessage, stream: Duplex, head: Buffer) => {
    if (!api || pathOf(request) !== '/graphql') return refuse(stream, '404 Not Found')
    if (!isAllowedOrigin(request, allowedOrigins)) return refuse(stream, '403 Forbidden')
    if (closing) return refuse(stream, '503 Service Unavailable')
    sockets.upgrade(request, stream, head)
  })

  async function answerReadiness(response: ServerResponse): Promise<void> {
    const ready = !closing && (await inTime(options.isReady()).catch(() => false))
    answer(response, ready ? 200 : 503, ready ? 'ready' : 'not ready')
  }

  async function shutDown(graceMs: number): Promise<void> {
    const stopped = new Promise<void>((resolve) => http.close(() => resolve()))
    await sessions.close()
    const late = setTimeout(() => http.closeAllConnections(), graceMs)
    await Promise.all([stopped, sockets.close(graceMs)])
    clearTimeout(late)
  }

  return {
    async listen(port, host) {
      await sessions.start()
      await new Promise<void>((resolve, reject) => {
        http.once('error', reject)
        http.listen(port, host, () => resolve(http.off('error', reject) && undefined))
      })
      return { url: urlOf(http, host) }
    },
    close(graceMs) {
      closing ??= shutDown(graceMs)
      return closing
    },
  }
}

function pathOf(request: IncomingMessage): string | undefined {
  return request.url?.split('?', 1)[0]
}

/** HTTP/1.0 needs no Host; one that no URL can hold is refused here, before anything builds a URL from it. */
function isHost(host: string | undefined): boolean {
  return host === undefined || URL.canParse(`http://${host}`)
}

/** Against cross-site WebSocket hijacking. Only browsers send an Origin, and they send it always. */
function isAllowedOrigin({ headers }: IncomingMessage, allowed: string[]): boolean {
  const { origin, host } = headers
  if (origin === undefined || allowed.includes(origin)) return true
  return URL.canParse(origin) && new URL(origin).host === host
}

function answer(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`)
}

function refuse(stream: Duplex, status: string): void {
  // Node has taken its own listeners off. Without these, a client that resets ends the process, and one that waits is never let go.
  stream.on('error', () => stream.destroy())
  stream.once('finish', () => stream.destroy())
  stream.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

function urlOf(http: HttpServer, host: string): string {
  const { port } = http.address() as AddressInfo
  const name = host === '0.0.0.0' || host === '::' ? 'localhost' : host
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}`
}
