import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let key: string

beforeAll(async () => {
  platform = await startTestPlatform()
  key = platform.acme.keys.admin
})

afterAll(() => platform.stop())

const json = 'application/json'
const graphqlResponse = 'application/graphql-response+json'

function post(body: unknown, headers: Record<string, string> = {}) {
  return fetch(`${platform.url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': json, authorization: `Bearer ${key}`, ...headers },
    body: body instanceof Blob || typeof body === 'string' ? body : JSON.stringify(body),
  })
}

function get(parameters: Record<string, string>, headers: Record<string, string> = {}) {
  const query = new URLSearchParams(parameters)
  return fetch(`${platform.url}/graphql?${query}`, { headers: { authorization: `Bearer ${key}`, ...headers } })
}

/** Sends bytes as they are and answers the first line of the response. */
async function raw(request: string): Promise<string> {
  const { hostname, port } = new URL(platform.url)
  const socket = connect(Number(port), hostname)
  socket.write(request)
  const [data] = await once(socket, 'data')
  socket.destroy()
  return String(data).split('\r\n', 1)[0] ?? ''
}

const role = '{ viewer { role } }'

describe('a query over HTTP', () => {
  it.each([json, graphqlResponse])('is answered as %s', async (accept) => {
    const response = await post({ query: role }, { accept })
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe(`${accept}; charset=utf-8`)
    expect(await response.json()).toEqual({ data: { viewer: { role: 'ADMIN' } } })
  })

  it('may be a GET, with its variables', async () => {
    const query = 'query ($id: ID!) { run(id: $id) { id } }'
    const response = await get({ query, variables: '{"id":"x"}' })
    expect(await response.json()).toEqual({ data: { run: null } })
  })

  it('names no operation that is not there', async () => {
    const response = await post({ query: 'query A { __typename } query B { __typename }', operationName: 'C' })
    expect(response.status).toBe(400)
  })
})

describe('a request that is not as it should be', () => {
  it('is refused when it mutates by GET', { tags: ['edge-csrf'] }, async () => {
    const query = 'mutation { deleteConversation(input: { conversationId: "x" }) { __typename } }'
    const response = await get({ query })
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST'])
  })

  it.each(['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/graphql', ''])(
    'is refused as %s, which a page of another origin could send unasked',
    { tags: ['edge-csrf'] },
    async (type) => {
      const response = await post(JSON.stringify({ query: role }), { 'content-type': type })
      expect(response.status).toBe(415)
    },
  )

  it.each([
    ['not JSON', '{"query":'],
    ['not an object', '"{ viewer { role } }"'],
    ['null', 'null'],
    ['with a query that is no text', '{"query":{}}'],
    ['with variables that are no object', '{"query":"{ __typename }","variables":"x"}'],
    ['with a parameter nobody knows', '{"query":"{ __typename }","quary":"x"}'],
    ['a batch', '[{"query":"{ __typename }"}]'],
  ])('is a 400 when its body is %s', async (_what, body) => {
    const response = await post(body)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ extensions: { code: 'BAD_USER_INPUT' } }] })
  })

  it('is a 400 when its variables in a GET are not JSON', async () => {
    expect((await get({ query: '{ __typename }', variables: '{' })).status).toBe(400)
  })

  it('is a 400 when its body is not UTF-8', async () => {
    const body = Buffer.concat([
      Buffer.from('{"query":"{ run(id: \\"'),
      Buffer.from([0xc3, 0x28]),
      Buffer.from('\\") { id } }"}'),
    ])
    const response = await post(new Blob([body]))
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ message: 'The body is not valid UTF-8.' }] })
  })

  it('is a 413 when its body is longer than 4 MiB, announced or not', async () => {
    const body = JSON.stringify({ query: '{ __typename }', variables: { padding: 'x'.repeat(5_000_000) } })
    expect((await post(body)).status).toBe(413)
    const chunk = `100000\r\n${'x'.repeat(0x100000)}\r\n`
    const head = `POST /graphql HTTP/1.1\r\nHost: here\r\nContent-Type: ${json}\r\nTransfer-Encoding: chunked\r\n\r\n`
    expect(await raw(head + chunk.repeat(5))).toBe('HTTP/1.1 413 Payload Too Large')
  })

  it.each(['PUT', 'DELETE', 'OPTIONS'])('is a 405 when it is a %s', { tags: ['edge-csrf'] }, async (method) => {
    const response = await fetch(`${platform.url}/graphql`, { method })
    expect([response.status, response.headers.get('access-control-allow-origin')]).toEqual([405, null])
  })

  it('is a 400 when its Host is none', async () => {
    expect(await raw('GET /graphql?query={__typename} HTTP/1.1\r\nHost: ][\r\n\r\n')).toBe('HTTP/1.1 400 Bad Request')
  })

  it.each(['{ viewer { nothing } }', '{ viewer {', 'query ($first: Int!) { runs(first: $first) { edges { cursor } } }'])(
    'is a coded request error in graphql-response+json: %s',
    async (query) => {
      const response = await post({ query }, { accept: graphqlResponse })
      expect(response.status).toBe(400)
      const { errors } = (await response.json()) as { errors: { extensions: object; locations: object[] }[] }
      expect(errors[0]).toMatchObject({ extensions: { code: 'BAD_USER_INPUT' }, locations: [{ line: 1 }] })
    },
  )
})

describe('credentials', () => {
  it('that are missing or wrong are all answered alike', { tags: ['authentication'] }, async () => {
    const wrong = `${key.slice(0, -8)}${key.slice(-8).split('').reverse().join('')}`
    const revoked = await platform.story.endUser(platform.acme.admin, 'revoked')
    await platform.acme.admin.db.apiKey.updateMany({ where: { id: revoked.endUser.actor.id }, data: { revokedAt: new Date() } })
    const headers = ['', 'Bearer', 'Bearer nonsense', 'Basic YTpi', `Bearer ${wrong}`, `Bearer ${revoked.key}`]
    const answers = await Promise.all(
      headers.map(async (authorization) => {
        const response = await post({ query: role }, { authorization })
        return [response.status, response.headers.get('www-authenticate'), await response.text()]
      }),
    )
    expect(answers[0]?.slice(0, 2)).toEqual([401, 'Bearer'])
    expect(JSON.parse(String(answers[0]?.[2]))).toMatchObject({
      data: null,
      errors: [{ extensions: { code: 'UNAUTHENTICATED' } }],
    })
    expect(answers).toEqual(headers.map(() => answers[0]))
  })
})

describe('other paths', () => {
  it.each([
    ['/', 200, 'GraphQL API is at /graphql'],
    ['/health/live', 200, 'live'],
    ['/health/ready', 200, 'ready'],
    ['/metrics/', 404, 'Not found.'],
    ['/graphql/x', 404, 'Not found.'],
    ['//', 404, 'Not found.'],
  ])('%s answers %s', async (path, status, text) => {
    const response = await fetch(platform.url + path)
    expect([response.status, response.headers.get('content-type')]).toEqual([status, 'text/plain; charset=utf-8'])
    expect(await response.text()).toContain(text)
  })
})
