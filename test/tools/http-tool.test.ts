import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ValidationProblem } from '../../src/domain/errors.ts'
import { type Tool, ToolOutcomeUnknown } from '../../src/domain/ports.ts'
import type { ToolInputs } from '../../src/domain/tool-definition.ts'
import { tried } from '../isolation/tried.ts'
import { freePort } from '../support/local-server.ts'
import { privateUrls } from '../support/private-urls.ts'
import { callContext, httpTool, localEgress } from '../support/tool-maker.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

let server: WebhookReceiver
let origin: string

beforeAll(async () => {
  server = await startWebhookReceiver()
  origin = new URL(server.url).origin
})

beforeEach(() => {
  server.calls = []
  server.answer = (_call, response) => void response.end('{"ok":true}')
})

afterAll(() => server.close())

const text = { type: 'object', properties: { id: { type: 'string' }, limit: { type: 'integer' } }, required: ['id'] }

function define(input: Partial<ToolInputs['HTTP']> = {}, secrets: Record<string, string> = {}): Promise<Tool> {
  return httpTool({ egress: localEgress([server.port]), secrets }, { url: `${origin}/orders`, ...input })
}

async function call(
  input: Partial<ToolInputs['HTTP']>,
  args: unknown = {},
  secrets: Record<string, string> = {},
): Promise<string> {
  return (await define(input, secrets)).call(args, callContext())
}

async function problemOf(input: Partial<ToolInputs['HTTP']>): Promise<ValidationProblem> {
  const problem = await define(input).catch((error) => error)
  expect(problem).toBeInstanceOf(ValidationProblem)
  return problem
}

describe('a request', () => {
  it('puts arguments where the template has a place for them, and the rest into the query', async () => {
    const parameters = { ...text, properties: { ...text.properties, tags: { type: 'array' }, deep: { type: 'object' } } }
    const url = `${origin}/orders/{id}/lines?limit={limit}&sort=asc`
    await call({ url, parameters }, { id: 'a/b?c#d e', limit: 3, tags: ['x', 'y&z'], deep: { a: 1 } })
    const { pathname, searchParams } = new URL(server.calls[0]?.path ?? '', origin)
    expect(pathname).toBe('/orders/a%2Fb%3Fc%23d%20e/lines')
    expect([...searchParams]).toEqual([
      ['limit', '3'],
      ['sort', 'asc'],
      ['tags', 'x'],
      ['tags', 'y&z'],
      ['deep', '{"a":1}'],
    ])
    await call({ url, parameters }, { id: 'one' })
    expect(server.calls[1]?.path).toBe('/orders/one/lines?sort=asc')
  })

  it('sends the rest as JSON when it has a body', async () => {
    const tool = await define({ method: 'POST', url: `${origin}/orders/{id}`, parameters: text })
    const context = callContext()
    await tool.call({ id: 'one', limit: 3 }, context)
    const [sent] = server.calls
    expect(sent).toMatchObject({ path: '/orders/one', body: '{"limit":3}' })
    expect(sent?.headers).toMatchObject({ 'content-type': 'application/json', 'idempotency-key': context.idempotencyKey })
  })

  it('never leaves its origin or its path, whatever the arguments are', { tags: ['edge-ssrf'] }, async () => {
    const tool = await define({ url: `${origin}/orders/{id}/lines`, parameters: text })
    const tricky = fc.oneof(
      fc.string({ unit: 'grapheme' }),
      fc.constantFrom('..', '.', '', '%2e%2e', '../x', '..\\x', '//evil.example', '@evil', '\u0000', '\ud800', '?a', '#a'),
    )
    await fc.assert(
      fc.asyncProperty(tricky, async (id) => {
        server.calls = []
        await tool.call({ id }, callContext()).catch(() => undefined)
        for (const { path } of server.calls) {
          const { pathname, search, hash } = new URL(path, origin)
          const [first, second, last, ...more] = pathname.slice(1).split('/')
          expect([first, decodeURIComponent(second ?? ''), last, more, search, hash]).toEqual(['orders', id, 'lines', [], '', ''])
        }
      }),
      { numRuns: 300 },
    )
  })

  it.each([
    [{ id: 3 }, 'arguments/id must be string'],
    [{}, "arguments must have required property 'id'"],
    ['text', 'arguments must be object'],
    [{ id: '..' }, 'neither empty nor dots'],
    [{ id: '' }, 'neither empty nor dots'],
  ])('is not made for the arguments %o, and says why', async (args, message) => {
    await expect(call({ url: `${origin}/orders/{id}`, parameters: text }, args)).rejects.toThrow(message)
    expect(server.calls).toEqual([])
  })

  it('is repeatable when it says so, or only reads', async () => {
    const repeatable = async (input: Partial<ToolInputs['HTTP']>) => (await define(input)).isRepeatable
    expect(await repeatable({})).toBe(true)
    expect(await repeatable({ method: 'POST' })).toBe(false)
    expect(await repeatable({ method: 'DELETE' })).toBe(false)
    expect(await repeatable({ method: 'POST', isIdempotent: true })).toBe(true)
  })

  it('asks first as its approval says', async () => {
    const asks = async (input: Partial<ToolInputs['HTTP']>, args: unknown) => (await define(input)).asksFirst(args)
    const large = { type: 'object', properties: { amount: { exclusiveMinimum: 100 } }, required: ['amount'] }
    expect(await asks({}, {})).toBe(false)
    expect(await asks({ approval: 'ALWAYS' }, {})).toBe(true)
    expect(await asks({ approval: 'WHEN', approvalWhen: large }, { amount: 101 })).toBe(true)
    expect(await asks({ approval: 'WHEN', approvalWhen: large }, { amount: 100 })).toBe(false)
    expect(await asks({ approval: 'WHEN', approvalWhen: large }, null)).toBe(false)
  })
})

describe('a secret', { tags: ['edge-redaction'] }, () => {
  const headers = [{ name: 'Authorization', value: 'Bearer {{secret:crm.key}}' }]

  it('is sent, and comes back in no form, whatever the server answers', async ({ task }) => {
    const rounds = 200
    let leaks = 0
    for (let round = 0; round < rounds; round++) {
      const key = randomBytes(6 + (round % 30)).toString(round % 2 === 0 ? 'base64' : 'hex')
      const spelling = spellings[round % spellings.length] ?? String
      const status = round % 3 === 0 ? 500 : 200
      server.answer = ({ headers: sent }, response) => void response.writeHead(status).end(spelling(sent['authorization'] ?? ''))
      const answer = await call({ headers }, {}, { 'crm.key': key }).catch((error) => String(error))
      expect(server.calls.at(-1)?.headers['authorization']).toBe(`Bearer ${key}`)
      if (formsOf(key).some((form) => answer.toLowerCase().includes(form.toLowerCase()))) leaks += 1
      expect(answer, spelling(`Bearer ${key}`)).toContain('[redacted]')
    }
    tried(task, { cases: rounds, leaks })
    expect(leaks).toBe(0)
  })

  it('does not come back by way of a mapping', async () => {
    server.answer = ({ headers: sent }, response) =>
      void response.end(JSON.stringify({ a: [{ key: sent['authorization'] }, { key: 'other' }] }))
    const responseMapping = [{ name: 'keys', path: '$.a[*].key' }]
    expect(await call({ headers, responseMapping }, {}, { 'crm.key': 'a-secret-value' })).toBe(
      '{"keys":["Bearer [redacted]","other"]}',
    )
  })

  it.each([
    [{}, 'a secret that it needs is missing'],
    [{ 'crm.key': 'short' }, 'is not 8 or more visible ASCII characters'],
    [{ 'crm.key': 'a-secret\r\nx-other: 1' }, 'is not 8 or more visible ASCII characters'],
    [{ 'crm.key': 'sécret-value' }, 'is not 8 or more visible ASCII characters'],
    [{ 'crm.key': 'x'.repeat(4_000) }, 'too long for a header'],
  ])('like %o keeps the request from being made, and is not told', async (secrets, message) => {
    const failure = String(await call({ headers }, {}, secrets as Record<string, string>).catch((error) => error))
    expect(failure).toContain(message)
    for (const value of [...Object.values(secrets), 'crm.key']) expect(failure).not.toContain(value)
    expect(server.calls).toEqual([])
  })

  it('is not sent on to another origin', { tags: ['edge-ssrf'] }, async () => {
    const other = await startWebhookReceiver()
    try {
      server.answer = (_call, response) => void response.writeHead(307, { location: other.url }).end()
      const egress = localEgress([server.port, other.port])
      const tool = await httpTool({ egress, secrets: { 'crm.key': 'a-secret-value' } }, { url: `${origin}/`, headers })
      await tool.call({}, callContext())
      expect(other.calls).toHaveLength(1)
      expect(JSON.stringify(other.calls)).not.toContain('a-secret-value')
    } finally {
      await other.close()
    }
  })
})

/** How a server may spell what it was sent. */
const spellings: ((text: string) => string)[] = [
  (sent) => `You sent ${sent}.`,
  (sent) => JSON.stringify({ headers: { authorization: sent } }),
  (sent) => JSON.stringify({ body: JSON.stringify({ sent }) }),
  (sent) => encodeURIComponent(sent),
  (sent) => [...Buffer.from(sent)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join(''),
  (sent) => new URLSearchParams({ sent }).toString(),
  (sent) => Buffer.from(sent).toString('hex'),
  (sent) =>
    Buffer.from(sent)
      .toString('hex')
      .toUpperCase()
      .replace(/..(?=.)/g, '$&:'),
  (sent) => Buffer.from(sent).toString('base64'),
  (sent) => Buffer.from(`x${sent}`).toString('base64'),
  (sent) => Buffer.from(`xy${sent}yz`).toString('base64url'),
  (sent) => encodeURIComponent(Buffer.from(sent).toString('base64')),
  (sent) => JSON.stringify(Buffer.from(sent).toString('base64')).replaceAll('/', '\\/'),
  (sent) =>
    (
      Buffer.from(sent)
        .toString('base64')
        .match(/.{1,20}/g) ?? []
    ).join('\r\n'),
  (sent) => [...sent].map((letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`).join(''),
  (sent) => [...sent].map((letter) => `&#${letter.charCodeAt(0)};`).join(''),
]

/** What must not be found: whole, and of base64 what stands for the middle. */
function formsOf(key: string): string[] {
  const inside = [0, 1, 2].map((before) =>
    Buffer.from('x'.repeat(before) + key)
      .toString('base64')
      .slice(4, -4),
  )
  return [key, encodeURIComponent(key), Buffer.from(key).toString('hex'), ...inside.filter((form) => form.length >= 6)]
}

describe('an answer', () => {
  it('is shown as it is, or as the mapping says', async () => {
    server.answer = (_call, response) => void response.end('{"items":[{"a b":1},{"a b":2},3],"next":null,"n":{"x":"y"}}')
    expect(await call({})).toContain('"items"')
    const responseMapping = [
      { name: 'all', path: "$.items[*]['a b']" },
      { name: 'second', path: '$.items[1]' },
      { name: 'deep', path: '$.n.x' },
      { name: 'none', path: '$.n.x.y.z' },
      { name: 'proto', path: '$.constructor' },
    ]
    expect(JSON.parse(await call({ responseMapping }))).toEqual({
      all: [1, 2],
      second: { 'a b': 2 },
      deep: 'y',
      none: null,
      proto: null,
    })
  })

  it.each<[string, WebhookReceiver['answer'], RegExp]>([
    [
      'refuses',
      (_call, response) => void response.writeHead(404).end('No such order.'),
      /^The server answered 404: No such order\.$/,
    ],
    ['is not JSON though it is mapped', (_call, response) => void response.end('<html>'), /^The answer is not JSON\.$/],
    [
      'is not text',
      (_call, response) => void response.end(Buffer.from([0xff, 0xfe, 0x41, 0x00])),
      /^The answer is not text in UTF-8\.$/,
    ],
    ['has NUL in it', (_call, response) => void response.end('s\0e\0c'), /^The answer is not text in UTF-8\.$/],
    [
      'breaks off',
      (_call, response) => void response.writeHead(200, { 'content-length': '100' }).write('{', () => response.destroy()),
      /^The request failed\. It cannot be reached\.$/,
    ],
    [
      'redirects for ever',
      (_call, response) => void response.writeHead(302, { location: '/again' }).end(),
      /^The request failed\. It redirects too often\.$/,
    ],
    [
      'redirects to a host that is not allowed',
      (_call, response) => void response.writeHead(302, { location: `http://localhost:${server.port}/` }).end(),
      /^The request failed\. It leads to a host that is not allowed\.$/,
    ],
    [
      'redirects to a private address',
      (_call, response) => void response.writeHead(302, { location: 'http://169.254.169.254/latest' }).end(),
      /^The request failed\. The URL must lead to the public Internet\.$/,
    ],
    ['does not come', () => undefined, /^The request failed\. It took too long\.$/],
  ])('that %s is an error for the model to read', async (_which, answer, message) => {
    server.answer = answer
    const responseMapping = [{ name: 'a', path: '$' }]
    await expect(call({ responseMapping, timeoutMs: 300 })).rejects.toThrow(message)
  })

  it('of a gigabyte is read no further than allowed', async () => {
    let sent = 0
    server.answer = (_call, response) => {
      const more = () => {
        while (!response.destroyed && sent < 1_073_741_824) {
          sent += 65_536
          if (!response.write(Buffer.alloc(65_536, 'x'))) return void response.once('drain', more)
        }
      }
      more()
    }
    await expect(call({ maxBytes: 1_048_576 })).rejects.toThrow('The answer has more than 1,048,576 bytes.')
    expect(sent).toBeLessThan(67_108_864)
  })

  it.each<[string, WebhookReceiver['answer'], boolean]>([
    ['that is never answered may have had its effect', () => undefined, true],
    ['whose connection breaks may have had its effect', (_call, response) => void response.destroy(), true],
    ['that is refused has had none', (_call, response) => void response.writeHead(500).end(), false],
    ['whose answer is too long was answered', (_call, response) => void response.end('x'.repeat(100)), false],
  ])('%s', async (_what, answer, isUnknown) => {
    server.answer = answer
    const failure = await call({ timeoutMs: 1_000, maxBytes: 50 }).catch((error) => error)
    expect(server.calls).toHaveLength(1)
    expect(failure instanceof ToolOutcomeUnknown).toBe(isUnknown)
  })

  it('to where nobody listens has had no effect', async () => {
    const port = await freePort()
    const tool = await httpTool({ egress: localEgress([port]), secrets: {} }, { url: `http://127.0.0.1:${port}/orders` })
    const failure = await tool.call({}, callContext()).catch((error) => error)
    expect(failure).toEqual(new Error('The request failed. It cannot be reached.'))
  })

  it('is left when the run stops', async () => {
    server.answer = () => undefined
    const stop = new AbortController()
    const called = (await define()).call({}, callContext(stop.signal))
    await expect.poll(() => server.calls.length).toBe(1)
    stop.abort(new Error('stopped'))
    await expect(called).rejects.toThrow('stopped')
  })
})

describe('a definition', () => {
  const cyclic = {
    type: 'object',
    properties: { a: { $ref: '#/$defs/a' } },
    $defs: { a: { properties: { b: { $ref: '#/$defs/a' } } } },
  }
  const twice = (n: number) => ({ allOf: [{ $ref: `#/$defs/d${n}` }, { $ref: `#/$defs/d${n}` }] })
  const doubling = {
    type: 'object',
    $defs: Object.fromEntries([...Array(12).keys()].map((n) => [`d${n}`, n === 11 ? {} : twice(n + 1)])),
    ...twice(0),
  }
  const properties = (count: number) => Object.fromEntries([...Array(count).keys()].map((n) => [`p${n}`, { type: 'string' }]))
  const header = (name: string, value = 'x') => ({ headers: [{ name, value }] })

  it.each<[string, Partial<ToolInputs['HTTP']>, string]>([
    ['a schema that is none', { parameters: { type: 'objekt' } }, 'parameters'],
    ['a schema of text', { parameters: { type: 'string' } }, 'parameters'],
    ['an unknown keyword', { parameters: { type: 'object', propertys: {} } }, 'parameters'],
    ['a circular schema', { parameters: cyclic }, 'parameters'],
    ['a schema that doubles with every reference', { parameters: doubling }, 'parameters'],
    ['a huge schema', { parameters: { type: 'object', properties: properties(1_500) } }, 'parameters'],
    [
      'a schema elsewhere',
      { parameters: { type: 'object', properties: { a: { $ref: 'https://evil.example/schema' } } } },
      'parameters',
    ],
    [
      'a schema with an id',
      { parameters: { type: 'object', $id: 'https://json-schema.org/draft/2020-12/schema' } },
      'parameters',
    ],
    ['a pattern that looks around', { parameters: { type: 'object', properties: { a: { pattern: '(?=a)b' } } } }, 'parameters'],
    [
      'a pattern without end',
      { parameters: { type: 'object', properties: { a: { pattern: 'a{1000}'.repeat(70) } } } },
      'parameters',
    ],
    ['an unknown variable', { url: 'https://api.example.com/{id}' }, 'url'],
    ['an optional argument in the path', { url: 'https://api.example.com/{limit}', parameters: text }, 'parameters'],
    ['an argument in the host', { url: 'https://{id}.example.com/', parameters: text }, 'url'],
    ['an argument in the port', { url: 'https://example.com:{id}/', parameters: text }, 'url'],
    ['an argument in the scheme', { url: '{id}://example.com/', parameters: text }, 'url'],
    ['an argument as a name of the query', { url: 'https://example.com/?{id}=1', parameters: text }, 'url'],
    ['an argument in the fragment', { url: 'https://example.com/#{id}', parameters: text }, 'url'],
    ['a stray brace', { url: 'https://example.com/{', parameters: text }, 'url'],
    ['a secret in the URL', { url: 'https://example.com/{{secret:a}}' }, 'url'],
    ['a private address', { url: 'http://10.0.0.1/' }, 'url'],
    ['a header that ends the line', header('x-own', 'a\r\nx-other: b'), 'headers'],
    ['a header name that ends the line', header('x-own: a\r\nx-other'), 'headers'],
    ["a header of the connection's", header('Transfer-Encoding', 'chunked'), 'headers'],
    ['a header of the platform', header('Idempotency-Key'), 'headers'],
    ['a secret whose name is none', header('x-own', '{{secret:}}'), 'headers'],
    ['other braces', header('x-own', '{{name}}'), 'headers'],
    ['one header twice', { headers: [...header('x-own').headers, ...header('X-Own').headers] }, 'headers'],
    ['hosts without its own', { url: 'https://a.example.com/', allowedHosts: ['b.example.com'] }, 'allowedHosts'],
    ['a host for everything', { url: 'https://a.example.com/', allowedHosts: ['*.com', 'a.example.com'] }, 'allowedHosts'],
    ['a host that is a URL', { url: 'https://a.example.com/', allowedHosts: ['https://a.example.com/'] }, 'allowedHosts'],
    ['a mapping that searches', { responseMapping: [{ name: 'a', path: '$..a' }] }, 'responseMapping'],
    ['a mapping that filters', { responseMapping: [{ name: 'a', path: '$[?(@.a)]' }] }, 'responseMapping'],
    [
      'a field twice',
      {
        responseMapping: [
          { name: 'a', path: '$' },
          { name: 'a', path: '$.a' },
        ],
      },
      'responseMapping',
    ],
    ['no time', { timeoutMs: 0 }, 'timeoutMs'],
    ['too much time', { timeoutMs: 30_001 }, 'timeoutMs'],
    ['too much room', { maxBytes: 1_048_577 }, 'maxBytes'],
    ['a condition for nothing', { approvalWhen: { type: 'object' } }, 'approvalWhen'],
    ['no condition', { approval: 'WHEN' }, 'approvalWhen'],
    ['a condition that is none', { approval: 'WHEN', approvalWhen: { type: 1 } }, 'approvalWhen'],
  ])('with %s is refused, at its place', async (_what, input, field) => {
    const started = performance.now()
    expect((await problemOf(input)).path).toEqual(['http', field])
    expect(performance.now() - started).toBeLessThan(2_000)
  })

  it('with hosts lets names below a name through, and that one not', async () => {
    const url = 'https://a.example.com/'
    await define({ url, allowedHosts: ['*.example.com'] })
    await problemOf({ url: 'https://example.com/', allowedHosts: ['*.example.com'] })
    await problemOf({ url: 'https://a.evilexample.com/', allowedHosts: ['*.example.com'] })
  })

  it('with a pattern that would take for ever takes no time', async () => {
    const parameters = { type: 'object', properties: { a: { type: 'string', pattern: '^(a+)+$' } } }
    const tool = await define({ parameters })
    const started = performance.now()
    await expect(tool.call({ a: `${'a'.repeat(30_000)}!` }, callContext())).rejects.toThrow('must match pattern')
    expect(performance.now() - started).toBeLessThan(1_000)
  })
})

describe('what is private', { tags: ['edge-ssrf'] }, () => {
  it('is never asked by a tool, however its URL is written', { timeout: 120_000 }, async ({ task }) => {
    let hits = 0
    server.answer = (_call, response) => {
      hits += 1
      response.end('inside')
    }
    // Whatever name it is, it leads here, and a moment ago it led to the public Internet.
    const egress = localEgress([], { resolve: async () => ['127.0.0.1', '::1'] })
    const distinct = new Set<string>()
    await fc.assert(
      fc.asyncProperty(privateUrls(server.port), async (url) => {
        distinct.add(url)
        const tool = await httpTool({ egress }, { url }).catch((error) => error)
        if (tool instanceof ValidationProblem) return
        await expect(tool.call({}, callContext()), url).rejects.toThrow('The request failed.')
      }),
      { numRuns: 6_500 },
    )
    tried(task, { cases: distinct.size, leaks: hits })
    expect(hits).toBe(0)
    expect(distinct.size).toBeGreaterThan(5_000)
  })
})
