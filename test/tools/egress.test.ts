// @module-tag edge-ssrf
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Server as NetServer } from 'node:net'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Egress, EgressFailure } from '../../src/domain/ports.ts'
import { createEgress, createOperatorEgress, type EgressOptions } from '../../src/tools/egress.ts'
import { AddressRefused, createResolve, guardedConnector } from '../../src/tools/egress-connector.ts'
import { isPublicAddress } from '../../src/tools/public-address.ts'
import { tried } from '../isolation/tried.ts'
import { startDnsServer } from '../support/dns-server.ts'
import { privateUrls } from '../support/private-urls.ts'

/** Listens on every address of this machine; whoever connects is a hit. */
let server: Server
let port: number
let hits: number
let asked: IncomingMessage[]
let answer: (request: IncomingMessage, response: ServerResponse) => void

beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request)
    answer(request, response)
  })
  server.on('connection', () => {
    hits += 1
  })
  server.listen(0, '::')
  await once(server, 'listening')
  port = portOf(server)
})

beforeEach(() => {
  hits = 0
  asked = []
  answer = (_request, response) => response.end('inside')
})

afterEach(() => server.closeAllConnections())

afterAll(() => {
  server.close()
})

function portOf(listening: NetServer): number {
  return (listening.address() as AddressInfo).port
}

/** Lets everything through to this machine, as an operator may. */
function open(options: EgressOptions = {}): Egress {
  return createEgress({ allowed: [{ address: '127.0.0.1', port }], allowHttp: true, ...options })
}

async function failureOf(request: Promise<unknown>): Promise<EgressFailure> {
  const outcome = await request.catch((error) => error)
  expect(outcome).toBeInstanceOf(EgressFailure)
  return outcome as EgressFailure
}

/** Whether it was the guard, and not the lack of a way. */
function isRefusal({ code, cause }: EgressFailure): boolean {
  return code === 'REFUSED' || cause instanceof AddressRefused
}

const example = '93.184.215.14'

describe('a URL', () => {
  it('is never answered by what is private, however it is written', { timeout: 60_000 }, async ({ task }) => {
    // Whatever name it is, it leads here.
    const resolve = async () => ['127.0.0.1', '::1']
    const egress = createEgress({ allowHttp: true, resolve })
    const connector = guardedConnector(resolve, [])
    const distinct = new Set<string>()
    await fc.assert(
      fc.asyncProperty(privateUrls(port), async (url) => {
        distinct.add(url)
        expect(await failureOf(egress.request({ url })), url).toSatisfy(isRefusal)
        // And without what is known of a URL by itself.
        if (URL.canParse(url)) expect(await connectionTo(new URL(url), connector), url).toBeInstanceOf(AddressRefused)
      }),
      { numRuns: 8_000 },
    )
    expect(hits).toBe(0)
    expect(distinct.size).toBeGreaterThan(5_000)
    tried(task, { cases: distinct.size, leaks: hits })
  })

  it('would often be answered, were it not for the guard', async () => {
    const urls = fc.sample(privateUrls(port), 500).filter((url) => URL.canParse(url))
    const hosts = urls.map((url) => new URL(url).hostname.replace(/^\[|\]$/g, ''))
    const local = hosts.filter((host) => /^(?:127\.|0\.0\.0\.0|::1?$|::ffff:7f)/.test(host))
    const found = await Promise.all(local.map(isHere))
    const reached = found.filter(Boolean).length
    expect(reached).toBeGreaterThan(100)
    await expect.poll(() => hits).toBe(reached)
  })

  it.each([
    ['nonsense', 'It is not a URL.'],
    ['/path', 'It is not a URL.'],
    ['http://example.com/', 'The URL must start with https://.'],
    ['ftp://example.com/', 'The URL must start with https://.'],
    ['file:///etc/passwd', 'The URL must start with https://.'],
    ['https://user:password@example.com/', 'The URL must not contain a user name or a password.'],
    ['https://user@example.com/', 'The URL must not contain a user name or a password.'],
    ['https://example.com:25/', 'The port must be 443, 80, or 1024 or above.'],
    ['https://example.com:0/', 'The port must be 443, 80, or 1024 or above.'],
    ['https://0x7f.1/', 'The URL must lead to the public Internet.'],
    ['https://[::ffff:10.0.0.1]:8443/', 'The URL must lead to the public Internet.'],
    ['https://2852039166/', 'The URL must lead to the public Internet.'],
  ])('like %s is refused before anything is asked', async (url, message) => {
    const egress = createEgress({ resolve: () => Promise.reject(new Error('It was looked up.')) })
    expect(egress.refusalOf(url)).toBe(message)
    expect(await failureOf(egress.request({ url }))).toMatchObject({ code: 'REFUSED', message })
  })

  it.each(['https://example.com/', 'https://example.com:8443/a?b=c', `https://${example}/`, 'https://[2606:2800:21f:cb07::1]/'])(
    'like %s can be asked',
    (url) => {
      expect(createEgress().refusalOf(url)).toBeNull()
    },
  )

  it('may be http: only where that is allowed', () => {
    expect(createEgress().refusalOf('http://example.com/')).not.toBeNull()
    expect(createEgress({ allowHttp: true }).refusalOf('http://example.com/')).toBeNull()
  })
})

describe('a name', () => {
  const url = () => `http://somewhere.example:${port}/`

  it.each([
    ['127.0.0.1'],
    ['::1'],
    ['::ffff:127.0.0.1'],
    ['64:ff9b::7f00:1'],
    ['64:ff9b:1::7f00:1'],
    ['2002:7f00:1::'],
    ['fe80::1'],
    ['fd00:ec2::254'],
    ['169.254.169.254'],
    ['100.64.0.1'],
    ['0.0.0.0'],
    [example, '127.0.0.1'],
    ['2606:2800:21f:cb07::1', '::1'],
    ['not an address'],
  ])('that leads to %s leads nowhere', async (...addresses) => {
    const egress = createEgress({ allowHttp: true, resolve: async () => addresses })
    const failure = await failureOf(egress.request({ url: url() }))
    expect(failure).toMatchObject({ code: 'UNREACHABLE', cause: expect.any(AddressRefused) })
    expect(hits).toBe(0)
  })

  it('is looked up for each connection, so that it cannot lead elsewhere a moment later', async () => {
    const dns = await startDnsServer((_name, before) => (before === 0 ? ['127.0.0.2'] : ['127.0.0.1', '::1']))
    try {
      const allowed = [{ address: '127.0.0.2', port }]
      const egress = createEgress({ allowHttp: true, allowed, resolve: createResolve([dns.address]) })
      // At first it leads to where one may go, here instead of the public Internet.
      expect(await egress.request({ url: url() })).toMatchObject({ status: 200 })
      expect(hits).toBe(1)
      for (let again = 0; again < 5; again++)
        expect(await failureOf(egress.request({ url: url() }))).toMatchObject({ cause: expect.any(AddressRefused) })
      expect(hits).toBe(1)
      expect(dns.questions.filter((question) => question === 'somewhere.example/4')).toHaveLength(6)
    } finally {
      await dns.close()
    }
  })

  it('is not told apart from one that is unknown', async () => {
    const dns = await startDnsServer((name) => (name === 'inside.example' ? ['10.0.0.1'] : []))
    try {
      const egress = createEgress({ allowHttp: true, resolve: createResolve([dns.address]) })
      const [inside, unknown] = await Promise.all(
        ['inside', 'unknown'].map((name) => failureOf(egress.request({ url: `http://${name}.example:${port}/` }))),
      )
      expect([inside?.code, inside?.message]).toEqual([unknown?.code, unknown?.message])
    } finally {
      await dns.close()
    }
  })
})

describe('a redirect', () => {
  it.each(['http://127.0.0.2', 'http://[::1]', 'http://2130706434', 'http://[::ffff:127.0.0.2]', 'http://localhost'])(
    'to %s is not followed',
    async (inside) => {
      answer = (_request, response) => response.writeHead(302, { location: `${inside}:${port}/secret` }).end()
      expect(await failureOf(open().request({ url: `http://127.0.0.1:${port}/` }))).toSatisfy(isRefusal)
      expect(asked.map(({ url }) => url)).toEqual(['/'])
    },
  )

  it.each(['ftp://127.0.0.1/', 'http://user:password@127.0.0.1/', 'http://', 'javascript:alert(1)'])(
    'to %s is not followed',
    async (location) => {
      answer = (_request, response) => response.writeHead(302, { location }).end()
      expect(await failureOf(open().request({ url: `http://127.0.0.1:${port}/` }))).toMatchObject({ code: 'REFUSED' })
      expect(asked).toHaveLength(1)
    },
  )

  it('is followed three times, and each is looked at', async () => {
    answer = ({ url }, response) => {
      const step = Number(url?.slice(1))
      response.writeHead(302, { location: step === 2 ? `http://127.0.0.2:${port}/3` : `/${step + 1}` }).end()
    }
    expect(await failureOf(open().request({ url: `http://127.0.0.1:${port}/0` }))).toSatisfy(isRefusal)
    expect(asked.map(({ url }) => url)).toEqual(['/0', '/1', '/2'])
  })

  it('is one too many after three', async () => {
    answer = ({ url }, response) => response.writeHead(302, { location: `/${Number(url?.slice(1)) + 1}` }).end()
    const failure = await failureOf(open().request({ url: `http://127.0.0.1:${port}/0` }))
    expect(failure).toMatchObject({ code: 'TOO_MANY_REDIRECTS' })
    expect(asked.map(({ url }) => url)).toEqual(['/0', '/1', '/2', '/3'])
  })

  it('is an answer to whoever follows none', async () => {
    answer = (_request, response) => response.writeHead(307, { location: '/elsewhere' }).end()
    const response = await open().request({ url: `http://127.0.0.1:${port}/`, maxRedirects: 0 })
    expect(response).toMatchObject({ status: 307, headers: { location: '/elsewhere' } })
    expect(asked).toHaveLength(1)
  })

  it('takes credentials along within an origin, and to no other', async () => {
    const allowed = ['127.0.0.1', '127.0.0.2'].map((address) => ({ address, port }))
    answer = ({ url, headers }, response) => {
      const location = url === '/0' ? '/1' : `http://127.0.0.2:${port}/2`
      if (url === '/2') response.end('done')
      else response.writeHead(307, { location: headers.host ? location : '' }).end()
    }
    const headers = { Authorization: 'Bearer a', Cookie: 'b', 'X-Api-Key': 'c', 'Content-Type': 'text/plain' }
    const request = { method: 'POST', body: 'body', headers } as const
    const response = await open({ allowed }).request({ url: `http://127.0.0.1:${port}/0`, ...request })
    expect(response).toMatchObject({ status: 200, url: `http://127.0.0.2:${port}/2` })
    const secrets = asked.map(({ headers: sent }) => [sent.authorization, sent.cookie, sent['x-api-key']])
    expect(secrets).toEqual([
      ['Bearer a', 'b', 'c'],
      ['Bearer a', 'b', 'c'],
      [undefined, undefined, undefined],
    ])
    expect(asked.map(({ method, headers: sent }) => [method, sent['content-type'], sent['content-length']])).toEqual(
      Array.from({ length: 3 }, () => ['POST', 'text/plain', '4']),
    )
  })

  it.each([
    [303, 'PUT', 'GET'],
    [302, 'POST', 'GET'],
    [301, 'POST', 'GET'],
    [301, 'PUT', 'PUT'],
    [308, 'POST', 'POST'],
  ] as const)('%i makes %s a %s', async (status, method, then) => {
    answer = ({ url }, response) => (url === '/0' ? response.writeHead(status, { location: '/1' }).end() : response.end())
    await open().request({ url: `http://127.0.0.1:${port}/0`, method, body: 'body', headers: { 'content-type': 'text/plain' } })
    expect(asked.map((each) => each.method)).toEqual([method, then])
    expect(asked[1]?.headers['content-type']).toBe(then === 'GET' ? undefined : 'text/plain')
  })
})

describe('an answer', () => {
  it('comes back whole', async () => {
    answer = (request, response) => {
      response.writeHead(418, { 'x-own': 'yes', 'set-cookie': ['a=1', 'b=2'] })
      request.pipe(response)
    }
    const response = await open().request({ url: `http://127.0.0.1:${port}/a?b=c`, method: 'POST', body: 'héllo' })
    expect(response).toMatchObject({ status: 418, headers: { 'x-own': 'yes', 'set-cookie': 'a=1, b=2' } })
    expect(Buffer.from(response.body).toString()).toBe('héllo')
    expect(asked[0]?.url).toBe('/a?b=c')
  })

  it('that is too large is cut off', async () => {
    answer = (_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write('x'.repeat(10_000)));
      }
      response.on('drain', more)
      more()
    }
    const failure = await failureOf(open().request({ url: `http://127.0.0.1:${port}/`, maxBytes: 100_000 }))
    expect(failure).toMatchObject({ code: 'TOO_LARGE', message: 'The answer has more than 100,000 bytes.' })
  })

  it.each<[string, typeof answer]>([
    ['that does not come', () => undefined],
    ['that does not end', (_request, response) => void response.write('x')],
    [
      'that goes round and round',
      (_request, response) => void setTimeout(() => response.writeHead(302, { location: '/' }).end(), 200),
    ],
  ])('%s is waited for until it takes too long', async (_which, slow) => {
    answer = slow
    expect(await failureOf(open().request({ url: `http://127.0.0.1:${port}/`, timeout: 500 }))).toMatchObject({
      code: 'TIMED_OUT',
    })
  })

  it('that is not wanted any more is left', async () => {
    answer = () => undefined
    const leaving = new AbortController()
    const request = open().request({ url: `http://127.0.0.1:${port}/`, signal: leaving.signal })
    await expect.poll(() => asked.length).toBe(1)
    leaving.abort(new Error('gone'))
    await expect(request).rejects.toThrow('gone')
  })

  it('leaves no connection behind', async () => {
    await open().request({ url: `http://127.0.0.1:${port}/` })
    const count = () => new Promise((resolve) => server.getConnections((_error, connections) => resolve(connections)))
    await expect.poll(count).toBe(0)
  })
})

describe('what the operator lists', () => {
  it('can be reached, at its port alone when one is named', async () => {
    const at = (allowed: EgressOptions['allowed']) =>
      open({ ...(allowed && { allowed }) }).request({ url: `http://127.0.0.1:${port}/` })
    expect(await at([{ address: '127.0.0.1', port: null }])).toMatchObject({ status: 200 })
    expect(await at([{ address: '127.0.0.1', port }])).toMatchObject({ status: 200 })
    for (const allowed of [
      { address: '127.0.0.1', port: port - 1 },
      { address: '127.0.0.2', port },
    ])
      expect(await failureOf(at([allowed]))).toMatchObject({ code: 'REFUSED' })
    expect(hits).toBe(2)
  })

  it('can be reached by any spelling, and by a name that leads there', async () => {
    const egress = open({ resolve: async () => ['127.0.0.1'] })
    for (const host of ['2130706433', '[::ffff:127.0.0.1]', 'inside.example'])
      expect(await egress.request({ url: `http://${host}:${port}/` }), host).toMatchObject({ status: 200 })
  })
})

describe('a header', () => {
  it.each(['Host', 'Connection', 'Transfer-Encoding', 'Content-Length', 'Proxy-Authorization'])(
    "%s is not the caller's",
    async (name) => {
      const failure = await failureOf(open().request({ url: `http://127.0.0.1:${port}/`, headers: { [name]: 'x' } }))
      expect(failure).toMatchObject({ code: 'REFUSED' })
      expect(hits).toBe(0)
    },
  )

  it('cannot smuggle another in', async () => {
    await failureOf(open().request({ url: `http://127.0.0.1:${port}/`, headers: { 'x-own': 'a\r\nx-other: b' } }))
    expect(asked).toEqual([])
  })
})

describe('an address', () => {
  it.each([
    [
      '8.8.8.8',
      example,
      '1.1.1.1',
      '172.15.255.255',
      '172.32.0.0',
      '100.63.255.255',
      '100.128.0.0',
      '223.255.255.255',
      '11.0.0.0',
    ],
    ['2606:4700::1111', '2a00:1450:4001::1', '::ffff:8.8.8.8', '64:ff9b::808:808', '2001:200::1'],
  ])('like %s is public', (...addresses) => {
    expect(addresses.filter((address) => !isPublicAddress(address))).toEqual([])
  })

  it.each([
    ['0.0.0.0', '10.1.2.3', '100.64.0.0', '100.127.255.255', '127.255.255.255', '168.63.129.16', '169.254.0.1', '172.16.0.0'],
    ['172.31.255.255', '192.0.0.8', '192.0.2.1', '192.88.99.1', '192.168.0.1', '198.18.0.1', '198.19.255.255', '198.51.100.1'],
    ['203.0.113.1', '224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255'],
    ['::', '::1', '::7f00:1', '::ffff:10.0.0.1', '::ffff:0:7f00:1', '64:ff9b::a00:1', '64:ff9b:1::808:808', '100::1', 'fc00::1'],
    [
      'fdff::1',
      'fe80::1',
      'fe80::1%eth0',
      'fec0::1',
      'ff02::1',
      '2001::1',
      '2001:2::1',
      '2001:db8::1',
      '2002:808:808::1',
      '3fff::1',
    ],
    ['4000::1', '5f00::1', '', 'localhost', '1.2.3', '127.0.0.1%lo'],
  ])('like %s is not', (...addresses) => {
    expect(addresses.filter(isPublicAddress)).toEqual([])
  })
})

/** What a connector makes of the place that a URL leads to. */
function connectionTo({ hostname, host, protocol, port: at }: URL, connector: ReturnType<typeof guardedConnector>) {
  return new Promise<unknown>((resolve) => {
    connector({ hostname: hostname.replace(/^\[|\]$/g, ''), host, protocol, port: at }, (error, socket) => {
      socket?.destroy()
      resolve(error)
    })
  })
}

/** Whether somebody listens there, by whichever way there is. */
function isHere(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 500 })
    const finish = (found: boolean) => {
      socket.destroy()
      resolve(found)
    }
    socket.once('connect', () => finish(true))
    socket.once('timeout', () => finish(false))
    socket.once('error', () => finish(false))
  })
}

describe('the way to what the operator chose', () => {
  it('leads to private addresses and by names that only this machine knows, with the same limits', async () => {
    const way = createOperatorEgress()
    for (const host of ['127.0.0.1', 'localhost', '[::1]'])
      expect(await way.request({ url: `http://${host}:${port}/` })).toMatchObject({ status: 200 })
    answer = (_request, response) => response.end('x'.repeat(100))
    expect(await failureOf(way.request({ url: `http://127.0.0.1:${port}/`, maxBytes: 99 }))).toMatchObject({ code: 'TOO_LARGE' })
    answer = () => undefined
    const slow = way.request({ url: `http://127.0.0.1:${port}/`, timeout: 100 })
    expect(await failureOf(slow)).toMatchObject({ code: 'TIMED_OUT' })
  })
})
