import { describe, expect, it } from 'vitest'
import { say } from '../support/conversing.ts'
import { openEventSource } from '../support/event-source.ts'
import { stallsAfter } from '../support/fake-upstream.ts'
import { startTestPlatform } from '../support/platform.ts'
import { openSocket, signIn } from '../support/raw-socket.ts'

describe('a server that closes', () => {
  it('ends sockets with 1001 and event streams unfinished, and accepts nothing more', async () => {
    const platform = await startTestPlatform()
    platform.upstream.next(stallsAfter('Once'))
    const { admin } = platform.acme.keys
    const { runId } = await say(platform.api(admin), 'A story, please.')
    const query = `subscription { agentReply(runId: "${runId}") { __typename } }`
    const [idle, following, stranger] = await Promise.all([
      signIn(platform.url, admin),
      signIn(platform.url, admin),
      openSocket(platform.url),
    ])
    following.send({ id: '1', type: 'subscribe', payload: { query } })
    const { next, rest } = await openEventSource(platform.url, admin, { query })
    await Promise.all([following.next(), next()])

    const closed = platform.closeServer(5_000)
    expect(await Promise.all([idle.closed, following.closed, stranger.closed])).toEqual([1001, 1001, 1001])
    expect((await rest()).map(({ event }) => event)).not.toContain('complete')
    await closed
    await expect(fetch(`${platform.url}/health/live`)).rejects.toThrow()
    await platform.stop()
  })

  it('waits no longer than it was told for a client that does not close', async () => {
    const platform = await startTestPlatform()
    const socket = await signIn(platform.url, platform.acme.keys.admin)
    socket.ws.pause()
    const started = Date.now()
    await platform.closeServer(200)
    expect(Date.now() - started).toBeLessThan(2_000)
    socket.ws.terminate()
    await platform.stop()
  })
})
