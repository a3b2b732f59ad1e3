// @module-tag edge-slow-readers
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { agentReplySubscription } from '../operations/agent-reply.ts'
import { say } from '../support/conversing.ts'
import { saysALot } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { signIn } from '../support/raw-socket.ts'

let platform: TestPlatform
let key: string

beforeAll(async () => {
  platform = await startTestPlatform()
  key = platform.acme.keys.member
})

afterAll(() => platform.stop())

/** More than the kernel holds for one connection, in thousands of characters. */
const length = 7_500

type Reply = { payload: { data: { agentReply: { __typename: string; text?: string; resumeAfter?: string } } } }

/** Reads the whole answer as a client does that keeps up, as far as the machine lets it: how many characters it has. */
async function readAll(runId: string): Promise<number> {
  let read = 0
  for (let after: string | undefined; ; ) {
    let lagged: string | undefined
    for await (const { agentReply: event } of platform.api(key).follow(agentReplySubscription, { runId, after })) {
      if (event.__typename === 'TextDelta') read += event.text.length
      if (event.__typename === 'Snapshot') read = event.text.length
      if (event.__typename === 'Lagged') lagged = event.resumeAfter
      if (event.__typename === 'RunCompleted') return read
      if (event.__typename.startsWith('Run')) throw new Error(`The answer came to another end: ${JSON.stringify(event)}`)
    }
    after = lagged
  }
}

describe('a reader that does not read', () => {
  it('is told where to go on, and holds up nobody else', async () => {
    platform.upstream.next(saysALot(length))
    const slow = await signIn(platform.url, key)
    const { runId } = await say(platform.api(key), 'Talk.')
    slow.send({
      id: '1',
      type: 'subscribe',
      payload: {
        query: `subscription { agentReply(runId: "${runId}") { __typename ... on TextDelta { text } ... on Lagged { resumeAfter } } }`,
      },
    })
    slow.ws.pause()

    expect(await readAll(runId)).toBe(length * 1_000)

    slow.ws.resume()
    let event: Reply['payload']['data']['agentReply'] | undefined
    let read = 0
    for (let message = await slow.next(); message['type'] === 'next'; message = await slow.next()) {
      event = (message as Reply).payload.data.agentReply
      read += event.text?.length ?? 0
    }
    expect(event).toEqual({ __typename: 'Lagged', resumeAfter: expect.stringMatching(/^\d+-\d+$/) })
    expect(read).toBeLessThan(length * 1_000)
    slow.ws.close()
    await slow.closed
  })

  it('is cut off when it takes nothing of its answers, and not while it takes them slowly', async () => {
    const strict = await startTestPlatform({ limits: { stalledMs: 1_500 } })
    const { hostname, port } = new URL(strict.url)
    const accept = { accept: 'text/html' }
    // The first to ask for the page waits until it is put together, which is no stalling.
    const page = await (await fetch(`${strict.url}/graphql`, { headers: accept })).text()
    // Together the answers are several times what the kernel holds for one connection, which is some 10 MB.
    const pages = 5
    const request = 'GET /graphql HTTP/1.1\r\nHost: bulkhead\r\nAccept: text/html\r\n\r\n'.repeat(pages)
    const all = page.length * pages
    expect(all).toBeGreaterThan(40_000_000)

    const stuck = await connectTo(Number(port), hostname)
    const slow = await connectTo(Number(port), hostname)
    let taken = 0
    slow.client.on('data', ({ length }) => {
      taken += length
      slow.client.pause()
      setTimeout(() => slow.client.resume(), 5)
    })
    stuck.client.pause()
    const cut = once(stuck.accepted, 'close')
    for (const { client } of [stuck, slow]) client.write(request)
    await cut
    // What the kernel had taken comes first; then the connection is gone, with the answers unfinished.
    let received = 0
    stuck.client.on('data', ({ length }) => {
      received += length
    })
    stuck.client.on('error', () => undefined)
    stuck.client.resume()
    await once(stuck.client, 'close')
    expect(received).toBeLessThan(all)

    expect(slow.accepted.destroyed).toBe(false)
    await expect.poll(() => taken, { timeout: 40_000 }).toBeGreaterThan(20_000_000)
    slow.client.destroy()
    await strict.stop()
  }, 60_000)
})

/** A connection, with the server's end of it. */
async function connectTo(port: number, hostname: string): Promise<{ client: Socket; accepted: Socket }> {
  const { promise, resolve } = Promise.withResolvers<Socket>()
  const onAccepted = (message: unknown) => resolve((message as { socket: Socket }).socket)
  subscribe('net.server.socket', onAccepted)
  const client = connect(port, hostname)
  const accepted = await promise
  unsubscribe('net.server.socket', onAccepted)
  return { client, accepted }
}
