import { once } from 'node:events'
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import { GraphQLError } from 'graphql'
import { describe, expect, it } from 'vitest'
import { EventStream, singleEvent } from '../../src/server/event-stream.ts'
import { type EventResult, eventId } from '../../src/server/shared-results.ts'

/** A subscription that counts what is read of it and delivers `texts`, or for ever the same. */
function subscription(texts: string[] | string) {
  const state = { read: 0, returned: 0 }
  const results: AsyncIterableIterator<EventResult> = {
    [Symbol.asyncIterator]: () => results,
    async next() {
      const text = typeof texts === 'string' ? texts : texts[state.read]
      if (text === undefined) return { done: true, value: undefined }
      state.read += 1
      return { done: false, value: { data: { text }, [eventId]: `1-${state.read}` } }
    },
    async return() {
      state.returned += 1
      return { done: true, value: undefined }
    },
  }
  return { state, results }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await setImmediate()
}

describe('an event stream', () => {
  it('begins at once, gives each event its id, and says when it is complete', async () => {
    const stream = new EventStream(subscription(['a', 'b']).results, 60_000)
    const text = (await stream.map(String).toArray()).join('')
    expect(text).toBe(
      ':\n\nevent: next\nid: 1-1\ndata: {"data":{"text":"a"}}\n\nevent: next\nid: 1-2\ndata: {"data":{"text":"b"}}\n\nevent: complete\ndata:\n\n',
    )
  })

  it('reads no further than it is read', async () => {
    const { state, results } = subscription('x'.repeat(4_000))
    const stream = new EventStream(results, 60_000)
    stream.read()
    await settle()
    const ahead = state.read
    expect(ahead).toBeLessThan(10)
    await settle()
    expect(state.read).toBe(ahead)
    stream.read()
    await settle()
    expect(state.read).toBeGreaterThan(ahead)
    stream.destroy()
  })

  it('ends its subscription when its reader leaves', async () => {
    const { state, results } = subscription('x')
    const stream = new EventStream(results, 60_000)
    stream.destroy()
    await settle()
    expect(state.returned).toBe(1)
  })

  it('that is interrupted does not say that it is complete', async () => {
    const { state, results } = subscription('x')
    const stream = new EventStream(results, 60_000)
    const chunks: string[] = []
    const ended = new Promise((resolve) => stream.once('end', resolve))
    stream.on('data', (chunk) => {
      chunks.push(String(chunk))
      if (chunks.length === 3) stream.interrupt()
    })
    await ended
    expect(chunks.join('')).not.toContain('complete')
    expect(state.returned).toBeGreaterThan(0)
  })

  it('shows that it lives while nothing happens', async () => {
    const idle: AsyncIterableIterator<EventResult> = {
      [Symbol.asyncIterator]: () => idle,
      next: () => new Promise(() => undefined),
    }
    const stream = new EventStream(idle, 5)
    const chunks = await stream.take(3).map(String).toArray()
    expect(chunks).toEqual([':\n\n', ':\n\n', ':\n\n'])
  })

  it('asks for one event at a time, whatever happens meanwhile', async () => {
    const asked: (() => void)[] = []
    const waiting: AsyncIterableIterator<EventResult> = {
      [Symbol.asyncIterator]: () => waiting,
      next: () => new Promise((resolve) => asked.push(() => resolve({ done: true, value: undefined }))),
    }
    const stream = new EventStream(waiting, 5)
    stream.resume()
    await delay(30)
    expect(asked).toHaveLength(1)
    asked[0]?.()
    await once(stream, 'end')
  })

  it('of one result shows no more of an error than clients may see', () => {
    const error = new GraphQLError('No.', { extensions: { code: 'FORBIDDEN', http: { status: 403 } } })
    expect(singleEvent({ errors: [error] })).toBe(
      'event: next\ndata: {"errors":[{"message":"No.","extensions":{"code":"FORBIDDEN"}}]}\n\nevent: complete\ndata:\n\n',
    )
  })
})
