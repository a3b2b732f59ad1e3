import { isIP } from 'node:net'
import { buildConnector, Client } from 'undici'
import { type Egress, EgressFailure, type EgressRequest, type EgressStream } from '../domain/ports.ts'
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
  return { refusalOf, ...requestsOver(connectorUnder(options), refusalOf) }
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
  return requestsOver(buildConnector({ timeout: connectTimeout, allowH2: false, maxCachedSessions: 0 }), () => null)
}

/** Whether the header is the caller's to say. `name` is in lower case. */
export function maySetHeader(name: string): boolean {
  return !reserved.has(name)
}

/** Whether a host is one of `allowed`: a name, or `*.` and a name that it is below. */
export function isAllowedHost(host: string, allowed: readonly string[]): boolean {
  return allowed.some((each) => (each.startsWith('*.') ? host.endsWith(each.slice(1)) : host === each))
}

/** Requests on connections that `connect` makes, to URLs that `refusalOf` has nothing against. */
function requestsOver(connect: buildConnector.connector, refusalOf: Egress['refusalOf']): Pick<Egress, 'request' | 'stream'> {
  /** One request, on a connection of its own: every address is looked at, every time. */
  const ask = async ({ url, method, headers, body }: Hop, signal: AbortSignal): Promise<EgressStream> => {
    let isConnected = false
    const noting: buildConnector.connector = (options, callback) =>
      connect(options, (...made) => {
        isConnected = made[0] === null
        callback(...made)
      })
    const client = new Client(url.origin, { connect: noting, pipelining: 0, allowH2: false })
    const close = () => client.destroy().catch(() => undefined)
    try {
      const path = `${url.pathname}${url.search}`
      const sent = { ...headers, 'accept-encoding': 'identity' }
      const response = await client.request({ path, method, headers: sent, body, signal })
      return { url: url.href, status: response.statusCode, headers: flat(response.headers), body: response.body, close }
    } catch (error) {
      await close()
      throw isConnected ? new Unanswered(error) : error
    }
  }

  const refuse = (url: URL, allowedHosts: EgressRequest['allowedHosts']) => {
    const refusal = refusalOf(url.href)
    if (refusal !== null) throw new EgressFailure('REFUSED', refusal)
    if (allowedHosts && !isAllowedHost(url.hostname, allowedHosts))
      throw new EgressFailure('REFUSED', 'It leads to a host that is not allowed.')
  }

  /** The last answer, after redirects, with what bounds it. */
  const follow = async (asked: EgressRequest): Promise<{ answer: EgressStream; limits: Limits }> => {
    const { maxRedirects = 3, maxBytes = 1_048_576, timeout = 15_000 } = asked
    const late = AbortSignal.timeout(timeout)
    const limits: Limits = { asked: asked.signal, late, maxBytes }
    const signal = asked.signal ? AbortSignal.any([asked.signal, late]) : late
    let hop = firstHop(asked)
    try {
      for (let followed = 0; ; followed++) {
        refuse(hop.url, asked.allowedHosts)
        const answer = await ask(hop, signal)
        const location = redirects.has(answer.status) ? answer.headers['location'] : undefined
        if (location === undefined || maxRedirects === 0) return { answer, limits }
        await answer.close()
        if (followed === maxRedirects) throw new EgressFailure('TOO_MANY_REDIRECTS', 'It redirects too often.')
        hop = nextHop(hop, answer.status, location)
      }
    } catch (error) {
      throw failureOf(error, limits)
    }
  }

  return {
    async request(asked) {
      const { answer, limits } = await follow(asked)
      const chunks: Uint8Array[] = []
      for await (const chunk of bounded(answer, limits)) chunks.push(chunk)
      const { url, status, headers } = answer
      return { url, status, headers, body: Buffer.concat(chunks) }
    },
    async stream(asked) {
      const { answer, limits } = await follow(asked)
      return { ...answer, body: bounded(answer, limits) }
    },
  }
}

/** What became of a request on a connection that was made. */
class Unanswered extends Error {
  constructor(cause: unknown) {
    super('The request was not answered.', { cause })
    this.name = 'Unanswered'
  }
}

/** `asked` is the caller's signal, and `late` the request's own. */
type Limits = { asked: AbortSignal | undefined; late: AbortSignal; maxBytes: number }

/** The body as far as it may go. Whoever stops reading it closes the connection. */
async function* bounded({ body, close }: EgressStream, limits: Limits): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0
  try {
    for await (const chunk of body) {
      bytes += chunk.length
      if (bytes > limits.maxBytes)
        throw new EgressFailure('TOO_LARGE', `The answer has more than ${limits.maxBytes.toLocaleString('en')} bytes.`)
      yield chunk
    }
  } catch (error) {
    throw failureOf(error, limits)
  } finally {
    await close()
  }
}

function failureOf(error: unknown, { asked, late }: Limits): unknown {
  if (asked?.aborted) return asked.reason
  if (error instanceof EgressFailure) return error
  const options = error instanceof Unanswered ? { cause: error.cause, mayHaveArrived: true } : { cause: error }
  if (late.aborted) return new EgressFailure('TIMED_OUT', 'It took too long.', options)
  // Whether a name is unknown or leads to where nobody may go is not told apart: it would be a look into another network.
  return new EgressFailure('UNREACHABLE', 'It cannot be reached.', options)
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
