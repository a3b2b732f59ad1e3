import { isIP } from 'node:net'
import { buildConnector, Client } from 'undici'
import { type Egress, EgressFailure, type EgressRequest, type EgressResponse } from '../domain/ports.ts'
import {
  type AllowedAddress,
  connectTimeout,
  createResolve,
  defaultPort,
  guardedConnector,
  mayConnect,
  type Resolve,
} from './egress-connector.ts'

export type EgressOptions = {
  /** Addresses that may be reached though they are not public. Default: none. */
  allowed?: readonly AllowedAddress[]
  /** Whether http: is allowed beside https:. Default false. */
  allowHttp?: boolean
  /** How names are looked up. Default: by DNS. */
  resolve?: Resolve
}

/** Redirects (RFC 9110, 15.4). */
const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/** What is not the caller's to say. */
const reserved: ReadonlySet<string> = new Set([
  ...['host', 'connection', 'content-length', 'transfer-encoding', 'upgrade', 'te', 'trailer', 'expect', 'keep-alive'],
  ...['proxy-authorization', 'proxy-connection', 'accept-encoding'],
])

/** All that another origin is told. Any other header may be a credential. */
const harmless: ReadonlySet<string> = new Set(['accept', 'accept-language', 'content-type', 'content-language', 'user-agent'])

/** The one way out for URLs that a tenant chooses. */
export function createEgress(options: EgressOptions = {}): Egress {
  const refusalOf = refusalUnder(options)
  return { refusalOf, request: requestOver(connectorUnder(options), refusalOf) }
}

/** What makes the connections. */
export function connectorUnder({ allowed = [], resolve = createResolve() }: EgressOptions): buildConnector.connector {
  return guardedConnector(resolve, allowed)
}

/** Why a URL is refused, whatever its name leads to; null when it can be asked. */
export function refusalUnder({ allowed = [], allowHttp = false }: EgressOptions): Egress['refusalOf'] {
  return (text) => {
    if (!URL.canParse(text)) return 'It is not a URL.'
    const url = new URL(text)
    if (url.protocol !== 'https:' && !(allowHttp && url.protocol === 'http:')) return 'The URL must start with https://.'
    if (url.username !== '' || url.password !== '') return 'The URL must not contain a user name or a password.'
    const port = url.port === '' ? defaultPort(url.protocol) : Number(url.port)
    // Below 1024 other protocols are at home, which a request could be made to speak.
    if (port < 1_024 && port !== 443 && port !== 80) return 'The port must be 443, 80, or 1024 or above.'
    const host = url.hostname.replace(/^\[|\]$/g, '')
    if (isIP(host) !== 0 && !mayConnect(host, port, allowed)) return 'The URL must lead to the public Internet.'
    return null
  }
}

/**
 * The way to URLs that the operator chooses: https or http, at any address and port, by the names that the machine knows. What comes
 * back is bounded as ever.
 */
export function createOperatorEgress(): Pick<Egress, 'request'> {
  return { request: requestOver(buildConnector({ timeout: connectTimeout, allowH2: false, maxCachedSessions: 0 }), () => null) }
}

/** Requests on connections that `connect` makes, to URLs that `refusalOf` has nothing against. */
function requestOver(connect: buildConnector.connector, refusalOf: Egress['refusalOf']): Egress['request'] {
  /** One request, on a connection of its own: every address is looked at, every time. */
  const ask = async (hop: Hop, maxBytes: number, signal: AbortSignal): Promise<EgressResponse> => {
    const { url, method, headers, body } = hop
    const client = new Client(url.origin, { connect, pipelining: 0, allowH2: false })
    try {
      const path = `${url.pathname}${url.search}`
      const response = await client.request({
        path,
        method,
        headers: { ...headers, 'accept-encoding': 'identity' },
        body,
        signal,
      })
      const chunks: Buffer[] = []
      let bytes = 0
      for await (const chunk of response.body) {
        bytes += chunk.length
        if (bytes > maxBytes)
          throw new EgressFailure('TOO_LARGE', `The answer has more than ${maxBytes.toLocaleString('en')} bytes.`)
        chunks.push(chunk)
      }
      return { url: url.href, status: response.statusCode, headers: flat(response.headers), body: Buffer.concat(chunks) }
    } finally {
      await client.destroy().catch(() => undefined)
    }
  }

  return async (asked) => {
    const { maxRedirects = 3, maxBytes = 1_048_576, timeout = 15_000 } = asked
    const late = AbortSignal.timeout(timeout)
    const signal = asked.signal ? AbortSignal.any([asked.signal, late]) : late
    let hop = firstHop(asked)
    try {
      for (let followed = 0; ; followed++) {
        const refusal = refusalOf(hop.url.href)
        if (refusal !== null) throw new EgressFailure('REFUSED', refusal)
        const response = await ask(hop, maxBytes, signal)
        const location = redirects.has(response.status) ? response.headers['location'] : undefined
        if (location === undefined || maxRedirects === 0) return response
        if (followed === maxRedirects) throw new EgressFailure('TOO_MANY_REDIRECTS', 'It redirects too often.')
        hop = nextHop(hop, response.status, location)
      }
    } catch (error) {
      asked.signal?.throwIfAborted()
      if (error instanceof EgressFailure) throw error
      if (late.aborted) throw new EgressFailure('TIMED_OUT', 'It took too long.', { cause: error })
      // Whether a name is unknown or leads to where nobody may go is not told apart: it would be a look into another network.
      throw new EgressFailure('UNREACHABLE', 'It cannot be reached.', { cause: error })
    }
  }
}

type Hop = { url: URL; method: EgressMethod; headers: Readonly<Record<string, string>>; body: string | null }
type EgressMethod = NonNullable<EgressRequest['method']>

function firstHop({ url, method = 'GET', headers = {}, body = null }: EgressRequest): Hop {
  const named = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value] as const)
  const stray = named.find(([name]) => reserved.has(name))
  if (stray) throw new EgressFailure('REFUSED', `The header ${stray[0]} cannot be set.`)
  if (!URL.canParse(url)) throw new EgressFailure('REFUSED', 'It is not a URL.')
  return { url: new URL(url), method, headers: Object.fromEntries(named), body }
}

/** Where a redirect leads, as the Fetch standard has it; but of its headers another origin sees only the harmless. */
function nextHop({ url, method, headers, body }: Hop, status: number, location: string): Hop {
  if (!URL.canParse(location, url)) throw new EgressFailure('REFUSED', 'It redirects to what is not a URL.')
  const next = new URL(location, url)
  const becomesGet = (status === 303 && method !== 'HEAD') || ((status === 301 || status === 302) && method === 'POST')
  const kept = Object.entries(headers).filter(
    ([name]) => (next.origin === url.origin || harmless.has(name)) && !(becomesGet && name.startsWith('content-')),
  )
  const asked = becomesGet ? { method: 'GET' as const, body: null } : { method, body }
  return { url: next, headers: Object.fromEntries(kept), ...asked }
}

function flat(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, Array.isArray(value) ? value.join(', ') : value]],
    ),
  )
}
