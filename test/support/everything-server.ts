import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { freePort } from './local-server.ts'

const program = fileURLToPath(import.meta.resolve('@modelcontextprotocol/server-everything/dist/index.js'))

/** The reference server of MCP over Streamable HTTP, in a process of its own. */
export type EverythingServer = {
  url: string
  port: number
  /** The headers and the body of all that it was sent. */
  requests: { headers: IncomingHttpHeaders; body: string }[]
  close(): Promise<void>
}

/** Starts one on loopback, behind what notes its requests and passes them on. */
export async function startEverythingServer(): Promise<EverythingServer> {
  const port = await freePort()
  const child = spawn(process.execPath, [program, 'streamableHttp'], { env: { PORT: String(port) }, stdio: 'ignore' })
  const exited = once(child, 'exit')
  const requests: EverythingServer['requests'] = []
  const front = createServer(async (incoming, outgoing) => {
    const body = Buffer.concat(await incoming.toArray()).toString()
    const { method, url: path, headers } = incoming
    requests.push({ headers, body })
    const passedOn = request({ host: '127.0.0.1', port, method, path, headers, agent: false }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    passedOn.on('error', () => outgoing.destroy())
    outgoing.on('close', () => passedOn.destroy())
    passedOn.end(body)
  })
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  await listens(port, () => child.exitCode === null)
  const own = (front.address() as AddressInfo).port
  return {
    ...{ url: `http://127.0.0.1:${own}/mcp`, port: own, requests },
    async close() {
      child.kill('SIGKILL')
      front.closeAllConnections()
      front.close()
      await Promise.all([exited, once(front, 'close')])
    },
  }
}

async function listens(port: number, isAlive: () => boolean): Promise<void> {
  const isThere = () =>
    fetch(`http://127.0.0.1:${port}/`).then(
      () => true,
      () => false,
    )
  while (!(await isThere())) {
    if (!isAlive()) throw new Error('The reference server ended.')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
