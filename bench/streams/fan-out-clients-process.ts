import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'

/** Opens so many sockets, and sends each of these messages once the answer to the one before has come. */
export type OpenOrder = { port: number; sockets: number; messages: string[] }

/** Each batch ends with a message that has one. */
const lastMark = '#'.charCodeAt(0)
const cursor = Buffer.from('"cursor"')

/*
 * Clients that look at nothing but how much has come, so that they are no slower than what they measure: when a batch has reached all of
 * them they say so, and of how many messages it was.
 */
let ended = 0
let messages = 0
let expected = 0

process.on('message', async ({ port, sockets, messages: sent }: OpenOrder) => {
  expected = sockets
  for (let opened = 0; opened < sockets; opened++) await open(port, sent)
  process.send?.('open')
})
process.on('disconnect', () => process.exit())

async function open(port: number, sent: string[]): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  socket.on('end', () => {
    throw new Error('The server closed a socket.')
  })
  await once(socket, 'connect')
  socket.write(
    `GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n`,
  )
  await once(socket, 'data')
  for (const message of sent) {
    // An id of its own, as clients make them.
    socket.write(frame(message.replace('"id":"1"', `"id":"${randomUUID()}"`)))
    await once(socket, 'data')
  }
  socket.on('data', count)
}

function count(chunk: Buffer): void {
  for (let at = chunk.indexOf(cursor); at !== -1; at = chunk.indexOf(cursor, at + cursor.length)) messages += 1
  for (let at = chunk.indexOf(lastMark); at !== -1; at = chunk.indexOf(lastMark, at + 1)) ended += 1
  if (ended < expected) return
  process.send?.({ messages })
  ended = 0
  messages = 0
}

/** A masked text frame (RFC 6455, 5.2), with a mask of zeroes. */
function frame(text: string): Buffer {
  const payload = Buffer.from(text)
  const length = payload.length < 126 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 0xff]
  return Buffer.concat([Buffer.from([0x81, ...length, 0, 0, 0, 0]), payload])
}
