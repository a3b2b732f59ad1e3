import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type SwallowingProxy = {
  /** Where Redis seems to be. */
  url: string
  /** Whether messages of the channel are lost. At first they are not. */
  swallows: boolean
  /** How many were. */
  swallowed: number
  close(): Promise<void>
}

/** A TCP proxy before Redis that can lose the published messages of one channel, and nothing else. */
export async function startSwallowingProxy(redisUrl: string, channel: string): Promise<SwallowingProxy> {
  const { hostname, port } = new URL(redisUrl)
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const redis = connect(Number(port), hostname)
    for (const [socket, other] of [
      [client, redis],
      [redis, client],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    client.pipe(redis)
    let rest = Buffer.alloc(0)
    redis.on('data', (bytes) => {
      const { replies, incomplete } = split(Buffer.concat([rest, bytes]))
      rest = incomplete
      for (const reply of replies) {
        if (proxy.swallows && isMessageOf(channel, reply)) proxy.swallowed++
        else client.write(reply)
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: SwallowingProxy = {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    swallows: false,
    swallowed: 0,
    async close() {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
  return proxy
}

function isMessageOf(channel: string, reply: Buffer): boolean {
  return reply.includes(`smessage\r\n$${Buffer.byteLength(channel)}\r\n${channel}\r\n`)
}

/** The complete replies at the start of `bytes`, as the Redis protocol delimits them, and what follows them. */
function split(bytes: Buffer): { replies: Buffer[]; incomplete: Buffer<ArrayBuffer> } {
  const replies: Buffer[] = []
  let start = 0
  for (let end = endOfReply(bytes, start); end !== -1; end = endOfReply(bytes, start)) {
    replies.push(bytes.subarray(start, end))
    start = end
  }
  return { replies, incomplete: Buffer.from(bytes.subarray(start)) }
}

/** Where the reply ends that begins at `start`; -1 when it is not complete. After the RESP3 specification. */
function endOfReply(bytes: Buffer, start: number): number {
  const line = bytes.indexOf('\r\n', start)
  if (line === -1) return -1
  const type = String.fromCharCode(bytes[start] ?? 0)
  const length = Number(bytes.toString('latin1', start + 1, line))
  let end = line + 2
  if ('$=!'.includes(type)) {
    if (length !== -1) end += length + 2
    return end <= bytes.length ? end : -1
  }
  const inner = '*>~'.includes(type) ? length : '%|'.includes(type) ? 2 * length : 0
  for (let item = 0; item < inner && end !== -1; item++) end = endOfReply(bytes, end)
  return end
}
