import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type HoldingProxy = {
  /** The URL of the server, by way of the proxy. */
  url: string
  /** Connections that are open. */
  open: number
  /**
   * From now on nothing that is on these connections arrives, in either direction, nor does anybody learn of it: as if the network in
   * between had lost them. New connections work.
   */
  loseAll(): number
  close(): Promise<void>
}

/** A TCP proxy before a server of any kind, whose connections can be lost without either end being told. */
export async function startHoldingProxy(serverUrl: string): Promise<HoldingProxy> {
  const { hostname, port } = new URL(serverUrl)
  const pairs = new Map<Socket, Socket>()
  const lost = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname)
    pairs.set(client, upstream)
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      socket.on('data', (bytes) => void (lost.has(client) || other.write(bytes)))
      socket.on('error', () => undefined)
      socket.on('close', () => {
        if (lost.has(client)) return
        pairs.delete(client)
        other.destroy()
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = new URL(serverUrl)
  url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    url: url.href,
    get open() {
      return pairs.size - lost.size
    },
    loseAll() {
      const before = lost.size
      for (const client of pairs.keys()) lost.add(client)
      return lost.size - before
    },
    async close() {
      const closed = once(server, 'close')
      server.close()
      for (const [client, upstream] of pairs) {
        client.destroy()
        upstream.destroy()
      }
      await closed
    },
  }
}
