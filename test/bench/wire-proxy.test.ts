import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, expect, it } from 'vitest'
import { startWireProxy, type WireProxy } from '../../bench/support/wire-proxy.ts'

let server: Server
let proxy: WireProxy
let client: Socket

/** A client and a server that answers a whole line, in pieces, with the proxy in between. */
async function start(delay: number) {
  server = createServer((socket) => {
    let line = ''
    socket.setEncoding('utf8').on('data', (text: unknown) => {
      line += text
      if (!line.endsWith('\n')) return
      for (const piece of `answer to ${line}`.match(/.{1,4}|\n/g) ?? []) socket.write(piece)
      line = ''
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

/** What comes until the line ends. */
async function receiveLine(): Promise<string> {
  let text = ''
  while (!text.endsWith('\n')) text += (await once(client, 'data'))[0]
  return text
}

it('counts once each time the client waits, however many pieces it sends before', async () => {
  await start(0)
  for (const name of ['one', 'two']) {
    client.write(`${name}\n`)
    expect(await receiveLine()).toBe(`answer to ${name}\n`)
  }
  for (const piece of ['th', 're', 'e\n']) {
    client.write(piece)
    await pause(5)
  }
  expect(proxy.traffic().roundTrips).toBe(3)
  expect(proxy.traffic().roundTrips).toBe(0)
})

it('holds bytes both ways, in order, and says for how long', async () => {
  await start(20)
  const sent = performance.now()
  client.write('one\n')
  expect(await receiveLine()).toBe('answer to one\n')
  expect(performance.now() - sent).toBeGreaterThan(37)
  expect(proxy.traffic().heldMillis).toBeGreaterThan(37)
})

it('passes the end of a connection on', async () => {
  await start(1)
  client.end()
  await once(client.resume(), 'close')
})
