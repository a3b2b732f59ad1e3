import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { WireProxyOptions, WireTraffic } from './wire-proxy.ts'
import type { FromProxy } from './wire-proxy-process.ts'

/** A database that is further away, or whose traffic is counted. */
export type Distance = {
  /** `url` as it is reached through the proxy. */
  through(url: string): string
  /** What passed since the last call. */
  traffic(): Promise<WireTraffic>
  close(): Promise<void>
}

/** Puts a proxy, in a process of its own, in front of the database. `delay` is in milliseconds and each way. */
export async function startDistance(database: { host: string; port: number }, delay: number): Promise<Distance> {
  const options: WireProxyOptions = { host: database.host, port: database.port, delay }
  const child = fork(new URL('./wire-proxy-process.ts', import.meta.url), [JSON.stringify(options)])
  const next = async <Kind extends FromProxy['kind']>(kind: Kind) => {
    const [message] = (await once(child, 'message')) as [FromProxy]
    if (message.kind !== kind) throw new Error(`The proxy said ${message.kind} instead of ${kind}.`)
    return message as Extract<FromProxy, { kind: Kind }>
  }
  const { port } = await next('listening')
  return {
    through(url) {
      const moved = new URL(url)
      moved.hostname = '127.0.0.1'
      moved.port = String(port)
      return moved.href
    },
    async traffic() {
      child.send('traffic')
      const { roundTrips, heldMillis } = await next('traffic')
      return { roundTrips, heldMillis }
    },
    async close() {
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    },
  }
}
