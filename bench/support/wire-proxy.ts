import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type WireProxyOptions = {
  host: string
  port: number
  /** Held back in each direction, in milliseconds, on average; 0 passes at once. */
  delay: number
}

export type WireTraffic = {
  /** How often a client spoke after the server had spoken: once for every time it waited for an answer. */
  roundTrips: number
  /** How long bytes were held on the way to the server and back, in milliseconds, both ways together, on average. */
  heldMillis: number
}

export type WireProxy = {
  port: number
  /** What passed since the last call. */
  traffic(): WireTraffic
  close(): Promise<void>
}

/**
 * A stretch of network on the loopback: passes bytes both ways, in order, each after `delay`. Bytes do not wait for
 * one another, so the distance costs latency and no throughput.
 */
export async function startWireProxy(options: WireProxyOptions): Promise<WireProxy> {
  const sockets = new Set<Socket>()
  const toServer = new Holding()
  const toClient = new Holding()
  let roundTrips = 0

  const server = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
    const upstream = connect({ host: options.host, port: options.port, noDelay: true, allowHalfOpen: true })
    let serverSpokeLast = true
    client.on('data', () => {
      if (serverSpokeLast) roundTrips++
      serverSpokeLast = false
    })
    upstream.on('data', () => {
      serverSpokeLast = true
    })
    pass(client, upstream, options.delay, toServer)
    pass(upstream, client, options.delay, toClient)
    for (const [socket, peer] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      // A reset of one side is how the other learns that it is gone.
      socket.on('error', () => peer.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        peer.destroySoon()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

  return {
    port: (server.address() as AddressInfo).port,
    traffic() {
      const traffic = { roundTrips, heldMillis: toServer.takeMean() + toClient.takeMean() }
      roundTrips = 0
      return traffic
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/**
 * Node's timers count whole milliseconds from the start of the event loop's turn, so one hold may be shorter and another
 * longer; the mean is reported. Timers of one duration fire in the order they were set, which keeps bytes in order.
 */
function pass(from: Socket, to: Socket, delay: number, holding: Holding): void {
  const hold = (release: () => void) => {
    const arrived = performance.now()
    const end = () => {
      holding.add(performance.now() - arrived)
      release()
    }
    if (delay === 0) end()
    else setTimeout(end, delay)
  }
  from.on('data', (chunk) => hold(() => to.write(chunk)))
  from.on('end', () => hold(() => to.end()))
}

class Holding {
  #total = 0
  #count = 0

  add(millis: number): void {
    this.#total += millis
    this.#count++
  }

  takeMean(): number {
    const mean = this.#count === 0 ? 0 : this.#total / this.#count
    this.#total = 0
    this.#count = 0
    return mean
  }
}
