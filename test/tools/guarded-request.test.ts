import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createGuardedRequest } from '../../src/tools/guarded-request.ts'

let port = 0
let requests = 0
let answer: RequestListener = (_request, response) => response.end('here')
const server = createServer((request, response) => {
  requests++
  answer(request, response)
})

beforeAll(async () => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  port = (server.address() as AddressInfo).port
})

afterAll(() => {
  server.close()
  server.closeAllConnections()
})

const url = (host = '127.0.0.1') => `http://${host}:${port}/v1`
const allowing = () => createGuardedRequest({ allowHttp: true, allowed: [{ address: '127.0.0.1', port }] })

describe('a guarded request', { tags: ['edge-ssrf'] }, () => {
  it('reaches what the operator listed, and hands the answer on while it comes', async () => {
    const rest = Promise.withResolvers<void>()
    answer = async (request, response) => {
      response.write(`${request.method} ${request.headers['authorization']}`)
      await rest.promise
      response.end(', and the rest')
    }
    const init = { method: 'POST' as const, body: '{}', headers: new Headers({ authorization: 'Bearer key' }) }
    const body = (await allowing()(url(), init)).body[Symbol.asyncIterator]()
    expect(String((await body.next()).value)).toBe('POST Bearer key')
    rest.resolve()
    expect(String((await body.next()).value)).toBe(', and the rest')
  })

  it('keeps no connection', async () => {
    answer = (_request, response) => response.end('here')
    const sockets = new Set<unknown>()
    server.on('connection', (socket) => sockets.add(socket))
    for (let times = 0; times < 3; times++) await (await allowing()(url())).body.text()
    expect(sockets.size).toBe(3)
  })

  it.each([
    ['an address that is not public', () => createGuardedRequest({ allowHttp: true })(url())],
    ['the same, written in another way', () => createGuardedRequest({ allowHttp: true })(url('0x7f000001'))],
    [
      'a name that leads there',
      () => createGuardedRequest({ allowHttp: true, resolve: async () => ['127.0.0.1'] })(url('a.example')),
    ],
    ['a name that the machine knows', () => createGuardedRequest({ allowHttp: true })(url('localhost'))],
    ['http, unless that is allowed', () => createGuardedRequest({ allowed: [{ address: '127.0.0.1', port: null }] })(url())],
    [
      'another port than was listed',
      () => createGuardedRequest({ allowHttp: true, allowed: [{ address: '127.0.0.1', port: port + 1 }] })(url()),
    ],
  ])('sends nothing to %s', async (_what, ask) => {
    const before = requests
    await expect(ask()).rejects.toThrow()
    expect(requests).toBe(before)
  })

  it('follows no redirect', async () => {
    answer = (_request, response) => response.writeHead(307, { location: '/elsewhere' }).end()
    const before = requests
    expect((await allowing()(url())).statusCode).toBe(307)
    expect(requests).toBe(before + 1)
  })

  it('ends with its signal', async () => {
    answer = () => undefined
    await expect(allowing()(url(), { method: 'GET', signal: AbortSignal.timeout(50) })).rejects.toThrow(/abort|timeout/i)
  })
})
