import { Resolver } from 'node:dns/promises'
import { isIP, type LookupFunction, type Socket } from 'node:net'
import { buildConnector } from 'undici'
import { isPublicAddress, plainAddress } from './public-address.ts'

/** Every address of a name. Throws when it has none. */
export type Resolve = (hostname: string) => Promise<string[]>

/** Addresses that the operator lets tenants reach though they are not public; at one port, or at all of them for null. */
export type AllowedAddress = { address: string; port: number | null }

/** Nobody is to connect there. */
export class AddressRefused extends Error {
  constructor() {
    super('The address is not one of the public Internet.')
    this.name = 'AddressRefused'
  }
}

/** How long a connection may take to be made, in milliseconds. */
export const connectTimeout = 5_000

/**
 * Connects to public addresses alone. All addresses of a name are looked up for each connection, and one that is not public refuses
 * them all; the connection is made to one of those that were looked at, so that a name cannot lead elsewhere a moment later.
 */
export function guardedConnector(resolve: Resolve, allowed: readonly AllowedAddress[]): buildConnector.connector {
  return (options, callback) => {
    const port = options.port === '' ? defaultPort(options.protocol) : Number(options.port)
    const mayReach = (address: string) => mayConnect(address, port, allowed)
    // A literal address is never looked up.
    if (isIP(options.hostname) !== 0 && !mayReach(options.hostname)) return callback(new AddressRefused(), null)
    const lookup: LookupFunction = (hostname, { all, family }, found) => {
      resolve(hostname).then(
        (addresses) => {
          if (!addresses.every(mayReach)) return found(new AddressRefused(), [])
          const usable = addresses.map((address) => ({ address, family: isIP(address) }))
          const [first] = usable.filter((each) => !family || each.family === family)
          if (all) found(null, usable)
          else if (first) found(null, first.address, first.family)
          else found(new AddressRefused(), '')
        },
        (error) => found(error, []),
      )
    }
    // No session is kept: one tenant's connections tell nothing of another's.
    const connect = buildConnector({ lookup, timeout: connectTimeout, allowH2: false, maxCachedSessions: 0 })
    connect(options, (...[error, socket]: [Error, null] | [null, Socket]) => {
      if (error) return callback(error, null)
      // What was connected to, whatever was looked up.
      if (mayReach(socket.remoteAddress ?? '')) return callback(null, socket)
      socket.destroy()
      callback(new AddressRefused(), null)
    })
  }
}

export function defaultPort(protocol: string): number {
  return protocol === 'https:' ? 443 : 80
}

/** Whether a connection to this address, at this port, may be made. */
export function mayConnect(address: string, port: number, allowed: readonly AllowedAddress[]): boolean {
  if (isPublicAddress(address)) return true
  const plain = plainAddress(address)
  return plain !== null && allowed.some((each) => each.address === plain && (each.port === null || each.port === port))
}

/**
 * Asks the DNS servers of the machine, for at most some seconds. Not the operating system, which has few threads for it: names that
 * answer slowly would hold up everybody's. Hence /etc/hosts and search domains do not count.
 */
export function createResolve(servers?: readonly string[]): Resolve {
  const resolver = new Resolver({ timeout: 2_000, tries: 2 })
  if (servers) resolver.setServers(servers)
  return async (hostname) => {
    // RFC 6761: whatever DNS says, this is here.
    if (/(?:^|\.)localhost\.?$/i.test(hostname)) return ['127.0.0.1', '::1']
    const answers = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)])
    const addresses = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
    if (addresses.length === 0) throw new Error('The name has no address.')
    return addresses
  }
}
