import { BlockList, isIP } from 'node:net'

/** What the registries of IANA keep from the public Internet ("Special-Purpose Address Space"), and metadata services that lie in it. */
const special: readonly [network: string, prefix: number][] = [
  ['0.0.0.0', 8], // "this network", the unspecified address
  ['10.0.0.0', 8], // private
  ['100.64.0.0', 10], // carrier-grade NAT
  ['127.0.0.0', 8], // loopback
  ['168.63.129.16', 32], // metadata and DNS of Azure's hosts, though the address is public
  ['169.254.0.0', 16], // link-local, metadata at 169.254.169.254
  ['172.16.0.0', 12], // private
  ['192.0.0.0', 24], // protocol assignments
  ['192.0.2.0', 24], // documentation
  ['192.88.99.0', 24], // relays of 6to4
  ['192.168.0.0', 16], // private
  ['198.18.0.0', 15], // benchmarking
  ['198.51.100.0', 24], // documentation
  ['203.0.113.0', 24], // documentation
  ['224.0.0.0', 4], // multicast
  ['240.0.0.0', 4], // reserved, broadcast
  ['2001::', 23], // protocol assignments: Teredo, benchmarking, ORCHID
  ['2001:db8::', 32], // documentation
  ['2002::', 16], // 6to4, which carries any IPv4 address
  ['3fff::', 20], // documentation
]

const refused = new BlockList()
for (const [network, prefix] of special) refused.addSubnet(network, prefix, isIP(network) === 4 ? 'ipv4' : 'ipv6')

/**
 * Whether the address is one of the public Internet. What only wraps an IPv4 address (mapped, NAT64) is what it wraps. Of IPv6 only
 * global unicast is public, 2000::/3: everything else is local, or is nothing yet (RFC 4291).
 */
export function isPublicAddress(address: string): boolean {
  const plain = plainAddress(address)
  if (plain === null) return false
  if (isIP(plain) === 4) return !refused.check(plain, 'ipv4')
  const first = groupsOf(plain)[0] ?? 0
  return first >> 13 === 1 && !refused.check(plain, 'ipv6')
}

/** One spelling for each address, with the IPv4 address in the place of what only wraps one. Null when it is none, or has a zone. */
export function plainAddress(address: string): string | null {
  if (isIP(address) === 4) return address
  if (isIP(address) !== 6 || address.includes('%')) return null
  const canonical = new URL(`http://[${address}]`).hostname.slice(1, -1)
  const groups = groupsOf(canonical)
  const prefix = groups.slice(0, 6).join(':')
  if (prefix !== mapped && prefix !== nat64) return canonical
  return groups
    .slice(6)
    .flatMap((group) => [group >> 8, group & 0xff])
    .join('.')
}

/** ::ffff:0:0/96 (RFC 4291) and 64:ff9b::/96 (RFC 6052), as decimal groups. */
const mapped = [0, 0, 0, 0, 0, 0xffff].join(':')
const nat64 = [0x64, 0xff9b, 0, 0, 0, 0].join(':')

/** The eight groups of an IPv6 address in canonical spelling. */
function groupsOf(address: string): number[] {
  const [head = '', tail] = address.split('::')
  const read = (text: string) => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)))
  if (tail === undefined) return read(head)
  const [before, after] = [read(head), read(tail)]
  return [...before, ...new Array(8 - before.length - after.length).fill(0), ...after]
}
