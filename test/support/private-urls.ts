import fc from 'fast-check'

/** An IPv4 address that no tenant is to reach, most often one where the machine itself listens. */
const privateV4 = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant(127), byte(), byte(), byte()) },
  { weight: 2, arbitrary: fc.constantFrom([127, 0, 0, 1], [0, 0, 0, 0], [169, 254, 169, 254], [100, 100, 100, 200]) },
  { weight: 1, arbitrary: fc.tuple(fc.constant(10), byte(), byte(), byte()) },
  { weight: 1, arbitrary: fc.tuple(fc.constant(172), fc.integer({ min: 16, max: 31 }), byte(), byte()) },
  { weight: 1, arbitrary: fc.tuple(fc.constant(192), fc.constant(168), byte(), byte()) },
  { weight: 1, arbitrary: fc.tuple(fc.constant(169), fc.constant(254), byte(), byte()) },
  { weight: 1, arbitrary: fc.tuple(fc.constant(100), fc.integer({ min: 64, max: 127 }), byte(), byte()) },
)

/** One IPv6 address, of itself or around an IPv4 address. */
const privateV6 = fc.oneof(
  fc.constantFrom(
    '::1',
    '::',
    '0:0:0:0:0:0:0:1',
    '0000::0001',
    '::0:1',
    '0:0::0:1',
    'fd00:ec2::254',
    'fe80::1',
    'ff02::1',
    'fc00::1',
  ),
  fc
    .tuple(
      fc.constantFrom('::ffff:', '64:ff9b::', '::', '0:0:0:0:0:ffff:', '64:FF9B::', '0000:0000:0000:0000:0000:FFFF:'),
      privateV4,
      fc.boolean(),
    )
    .map(([prefix, address, dotted]) => prefix + (dotted ? address.join('.') : groupsOf(address))),
  fc.tuple(fc.constantFrom('2002:', '64:ff9b:1:'), privateV4).map(([prefix, address]) => `${prefix}${groupsOf(address)}::1`),
  privateV4.map((address) => `2001:0:${groupsOf(address)}::1`),
)

const digit = fc.constantFrom('decimal', 'octal', 'hex', 'HEX')

/** The ways in which inet_aton and the URL standard let an IPv4 address be written: 1 to 4 numbers in three bases. */
const spelledV4 = fc
  .tuple(privateV4, fc.integer({ min: 1, max: 4 }), fc.tuple(digit, digit, digit, digit), fc.nat(3))
  .map(([address, parts, bases, zeros]) => {
    const last = address.slice(parts - 1).reduce((sum, each) => sum * 256 + each, 0)
    const numbers = [...address.slice(0, parts - 1), last]
    return numbers.map((number, index) => spell(number, bases[index] ?? 'decimal', zeros)).join('.')
  })

/** What the URL standard makes the same host of. */
const disguise = fc.constantFrom<(host: string) => string>(
  (host) => host,
  (host) => host,
  (host) => `${host}.`,
  (host) => host.replaceAll('.', '。'),
  (host) => host.replaceAll('.', '．'),
  (host) => host.replaceAll(/[0-9]/g, (each) => String.fromCodePoint(0xff10 + Number(each))),
  (host) => host.replaceAll(/[0-9]/g, (each) => `%3${each}`),
  (host) => host.replaceAll('.', '%2e'),
  (host) => `${host.slice(0, 1)}\u00ad${host.slice(1)}`,
  (host) => `${host.slice(0, 1)}\n${host.slice(1)}`,
)

/** Names that lead here, by themselves or since somebody made them. */
const names = fc.constantFrom(
  'localhost',
  'LOCALHOST',
  'localhost.',
  'a.localhost',
  'rebind.example',
  'ｌocalhost',
  'local%68ost',
)

/** URLs that lead to where no tenant may go: the machine itself, its network, the metadata of its cloud. */
export function privateUrls(port: number): fc.Arbitrary<string> {
  const host = fc.oneof(
    { weight: 6, arbitrary: fc.tuple(spelledV4, disguise).map(([spelled, change]) => change(spelled)) },
    { weight: 3, arbitrary: privateV6.map((address) => `[${address}]`) },
    { weight: 1, arbitrary: names },
  )
  const around = fc.constantFrom<(host: string) => string>(
    (each) => `http://${each}:${port}/`,
    (each) => `http://${each}:${port}/latest/meta-data?a=b#c`,
    (each) => `HTTP://${each}:${port}`,
    (each) => `http:\\\\${each}:${port}/`,
    (each) => `http:/${each}:${port}/`,
    (each) => `\t http://${each}:0${port}/ `,
    (each) => `http://public.example@${each}:${port}/`,
    (each) => `https://${each}:${port}/`,
  )
  return fc.tuple(host, around).map(([each, build]) => build(each))
}

function byte() {
  return fc.integer({ min: 0, max: 255 })
}

function groupsOf([a = 0, b = 0, c = 0, d = 0]: readonly number[]): string {
  return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`
}

function spell(number: number, base: string, zeros: number): string {
  if (base === 'octal') return `0${'0'.repeat(zeros)}${number.toString(8)}`
  if (base === 'hex') return `0x${'0'.repeat(zeros)}${number.toString(16)}`
  return base === 'HEX' ? `0X${number.toString(16).toUpperCase()}` : String(number)
}
