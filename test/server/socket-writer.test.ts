import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { SharedText } from '../../src/server/shared-results.ts'
import { SocketWriter } from '../../src/server/socket-writer.ts'

const http = createServer()
const server = new WebSocketServer({ noServer: true })

beforeAll(async () => {
  await once(http.listen(0, '127.0.0.1'), 'listening')
})

afterAll(() => {
  for (const client of server.clients) client.terminate()
  http.close()
})

/** Both ends of a socket, what the client has been sent, and how often the server's end was written to. */
async function connect() {
  const upgraded = once(http, 'upgrade')
  const client = new WebSocket(`ws://127.0.0.1:${(http.address() as AddressInfo).port}`)
  const [request, stream, head] = (await upgraded) as [never, Duplex, Buffer]
  const opened = once(client, 'open')
  const socket = await new Promise<WebSocket>((resolve) => server.handleUpgrade(request, stream, head, resolve))
  await opened
  const received: string[] = []
  client.on('message', (data) => void received.push(String(data)))
  let taken = 0
  const writer = new SocketWriter(socket, stream, () => {
    taken += 1
  })
  return { writer, socket, stream, client, received, taken: () => taken }
}

const head = Buffer.from('{"id":"1","type":"next","payload":')

it.each([
  ['short', 'a'],
  ['of 125 bytes with its head', 'a'.repeat(125 - head.length - 1 - 2)],
  ['of 126', 'a'.repeat(126 - head.length - 1 - 2)],
  ['of 65,535', 'a'.repeat(65_535 - head.length - 1 - 2)],
  ['of 65,536', 'a'.repeat(65_536 - head.length - 1 - 2)],
  ['in other letters', 'Grüße, 👋 世界 '.repeat(1_000)],
])('a shared text is one whole message: %s', async (_what, text) => {
  const { writer, client, received } = await connect()
  const json = JSON.stringify(text)
  await writer.sendShared(head, new SharedText(json))
  await expect.poll(() => received).toEqual([`${head}${json}}`])
  client.close()
})

it('messages arrive in the order in which they were sent, however they were sent, and in one write for each turn', async () => {
  const { writer, stream, client, received, taken } = await connect()
  let writes = 0
  const { _writev: writev, _write: write } = stream
  if (writev) {
    stream._writev = (...args) => {
      writes += 1
      writev.apply(stream, args)
    }
  }
  stream._write = (...args) => {
    writes += 1
    write.apply(stream, args)
  }
  const result = new SharedText('2')
  await Promise.all([
    writer.send('{"n":1}'),
    writer.sendShared(head, result),
    writer.send('{"n":3}'),
    writer.sendShared(head, result),
  ])
  await expect.poll(() => received).toEqual(['{"n":1}', `${head}2}`, '{"n":3}', `${head}2}`])
  expect([writes, taken()]).toEqual([1, 4])
  client.close()
})

it('a socket that is closing takes nothing more, and who sends to it is not told otherwise', async () => {
  const { writer, socket, client, received } = await connect()
  const closed = once(client, 'close')
  socket.close()
  const sent = Promise.race([writer.send('late'), writer.sendShared(head, new SharedText('"late"'))]).then(() => 'sent')
  await closed
  expect(await Promise.race([sent, new Promise((resolve) => setTimeout(resolve, 50, 'nothing'))])).toBe('nothing')
  expect(received).toEqual([])
})

it('waits for a reader that does not read, and for no other', async () => {
  const [slow, quick] = [await connect(), await connect()]
  slow.client.pause()
  const big = JSON.stringify('x'.repeat(1_000_000))
  let sent = 0
  const sending = (async () => {
    for (let count = 0; count < 30; count++) {
      await slow.writer.sendShared(head, new SharedText(big))
      sent += 1
    }
  })()
  for (let count = 0; count < 30; count++) await quick.writer.sendShared(head, new SharedText(big))
  await expect.poll(() => quick.received.length).toBe(30)
  expect(sent).toBeLessThan(30)
  slow.client.resume()
  await sending
  await expect.poll(() => slow.received.length).toBe(30)
  slow.client.close()
  quick.client.close()
})

it('is told when the reader has taken more: at once, or when what waits has gone', async () => {
  const { writer, stream, client, received, taken } = await connect()
  await writer.sendShared(head, new SharedText('1'))
  await expect.poll(() => [received.length, taken()]).toEqual([1, 1])
  client.pause()
  const big = JSON.stringify('x'.repeat(1_000_000))
  let sent = 1
  while (stream.writableLength === 0) {
    sent += 1
    void writer.sendShared(head, new SharedText(big))
    await new Promise(setImmediate)
  }
  expect(taken()).toBe(sent - 1)
  client.resume()
  await expect.poll(() => received.length).toBe(sent)
  expect(taken()).toBe(sent)
  client.close()
})
