// @module-tag edge-slow-readers
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
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
    // Each answer has nine megabytes: together they are more than the kernel holds for one connection.
    const request = 'GET /graphql HTTP/1.1\r\nHost: bulkhead\r\nAccept: text/html\r\n\r\n'
    const [stuck, slow] = [connect(Number(port), hostname), connect(Number(port), hostname)]
    for (const socket of [stuck, slow]) socket.write(request.repeat(4))
    let taken = 0
    slow.on('data', ({ length }) => {
      taken += length
      slow.pause()
      setTimeout(() => slow.resume(), 1)
    })
    stuck.pause()
    // What the kernel had taken comes first; then the connection is gone, with the answers unfinished.
    await delay(5_000)
    let received = 0
    stuck.on('data', ({ length }) => {
      received += length
    })
    stuck.on('error', () => undefined)
    stuck.resume()
    await once(stuck, 'close')
    expect(received).toBeLessThan(30_000_000)

    await expect.poll(() => taken, { timeout: 20_000 }).toBeGreaterThan(35_000_000)
    slow.destroy()
    await strict.stop()
  })
})
