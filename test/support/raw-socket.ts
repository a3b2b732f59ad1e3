import { once } from 'node:events'
import WebSocket, { type ClientOptions } from 'ws'

export type RawSocket = {
  ws: WebSocket
  send(message: unknown): void
  /** The next message that nobody took yet. */
  next(): Promise<Record<string, unknown>>
  /** Resolves with the close code. */
  closed: Promise<number>
}

/** A socket without a client library: what is sent is what arrives. Rejects when the handshake is refused. */
export async function openSocket(
  url: string,
  options: ClientOptions = {},
  protocol = 'graphql-transport-ws',
): Promise<RawSocket> {
  const ws = new WebSocket(`${url.replace(/^http/, 'ws')}/graphql`, protocol, options)
  const messages: Record<string, unknown>[] = []
  const takers: ((message: Record<string, unknown>) => void)[] = []
  ws.on('message', (data) => {
    const message = JSON.parse(String(data))
    const taker = takers.shift()
    if (taker) taker(message)
    else messages.push(message)
  })
  const closed = new Promise<number>((resolve) => ws.once('close', resolve))
  await once(ws, 'open')
  return {
    ws,
    closed,
    send: (message) => ws.send(typeof message === 'string' || message instanceof Buffer ? message : JSON.stringify(message)),
    next: () => {
      const message = messages.shift()
      return message ? Promise.resolve(message) : new Promise((resolve) => void takers.push(resolve))
    },
  }
}

/** A socket that is signed in. */
export async function signIn(url: string, key: string, options: ClientOptions = {}): Promise<RawSocket> {
  const socket = await openSocket(url, options)
  socket.send({ type: 'connection_init', payload: { authorization: `Bearer ${key}` } })
  const { type } = await socket.next()
  if (type !== 'connection_ack') throw new Error(`Expected connection_ack, got ${type}.`)
  return socket
}
