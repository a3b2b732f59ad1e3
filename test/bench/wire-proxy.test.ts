import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { startWireProxy, type WireProxy } from '../../bench/support/wire-proxy.ts'

let server: Server
let proxy: WireProxy
let client: Socket

/** A client and a server that answers every line, in pieces, with the proxy in between. */
async function start(delay: number) {
  server = createServer((socket) => {
    socket.setEncoding('utf8').on('data', (text: unknown) => {
      for (const piece of `answer to ${text}`.match(/.{1,4}|\n/g) ?? []) socket.write(piece)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  proxy = await startWireProxy({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, delay })
  client = connect({ port: proxy.port, host: '127.0.0.1', noDelay: true }).setEncoding('utf8')
  await once(client, 'connect')
}

afterEach(async () => {
  client.destroy()
  await proxy.close()
  await new Promise((resolve) => server.close(resolve))
})

/** All that comes until there are `lines` of it. */
async function receive(lines: number): Promise<string> {
  let text = ''
  while (text.split('\n').length <= lines) text += (await once(client, 'data'))[0]
  return text
}

it('counts once each time the client waits, however many messages it sends before', async () => {
  await start(0)
  for (const name of ['one', 'two']) {
    client.write(`${name}\n`)
    expect(await receive(1)).toBe(`answer to ${name}\n`)
  }
  client.cork()
  for (const name of ['three', 'four', 'five']) client.write(`${name}\n`)
  client.uncork()
  expect(await receive(3)).toBe('answer to three\nfour\nfive\n')
  expect(proxy.traffic().roundTrips).toBe(3)
  expect(proxy.traffic().roundTrips).toBe(0)
})

it('holds bytes both ways, in order, and says for how long', async () => {
  await start(20)
  const sent = performance.now()
  client.write('one\n')
  expect(await receive(1)).toBe('answer to one\n')
  expect(performance.now() - sent).toBeGreaterThan(37)
  expect(proxy.traffic().heldMillis).toBeGreaterThan(37)
})

it('passes the end of a connection on', async () => {
  await start(1)
  client.end()
  await once(client.resume(), 'close')
})
