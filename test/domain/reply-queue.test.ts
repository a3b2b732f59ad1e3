import { describe, expect, it } from 'vitest'
import { ReplyQueue } from '../../src/domain/reply-queue.ts'

const toolCall = (seq: number) =>
  ({ type: 'ToolCallFinished', toolCallId: `call_${seq}`, outcome: 'COMPLETED', cursor: `1000-${seq}` }) as const
const text = (seq: number, length: number) => ({ type: 'TextDelta', text: 'x'.repeat(length), cursor: `1000-${seq}` }) as const

/** Everything that can still be read. */
async function drain(queue: ReplyQueue) {
  const events = []
  for (let event = await queue.next(); event; event = await queue.next()) events.push(event)
  return events
}

describe('what waits for a follower', { tags: ['edge-slow-readers'] }, () => {
  it('is at most 1,000 events; one more, and it is told where to go on instead', async () => {
    const queue = new ReplyQueue('1000-0')
    queue.push(toolCall(1))
    await queue.next()
    for (let seq = 2; seq <= 1_001; seq++) queue.push(toolCall(seq))
    expect(queue.ended).toBe(false)
    queue.push(toolCall(1_002))
    expect(queue.ended).toBe(true)
    expect(await drain(queue)).toEqual([{ type: 'Lagged', cursor: '1000-1', resumeAfter: '1000-1' }])
  })

  it('is at most a mebibyte of text, however few events that is', async () => {
    const queue = new ReplyQueue('1000-0')
    queue.push(text(1, 10))
    expect((await queue.next())?.type).toBe('TextDelta')
    queue.push(text(2, 1_048_576))
    expect(queue.ended).toBe(false)
    queue.push(text(3, 1))
    expect(await drain(queue)).toEqual([{ type: 'Lagged', cursor: '1000-1', resumeAfter: '1000-1' }])
  })

  it('is nothing more once it has lagged', async () => {
    const queue = new ReplyQueue('1000-0')
    queue.push(text(1, 10))
    await queue.next()
    for (let seq = 2; seq < 10; seq++) queue.push(text(seq, 1_000_000))
    expect(await drain(queue)).toHaveLength(1)
  })

  it('comes before that for who has read nothing yet, who would only come back to the same place', async () => {
    const queue = new ReplyQueue('1000-0')
    for (let seq = 1; seq <= 4; seq++) queue.push(text(seq, 400_000))
    const [first, ...rest] = await drain(queue)
    expect(first).toEqual(text(2, 800_000))
    expect(rest).toEqual([{ type: 'Lagged', cursor: '1000-2', resumeAfter: '1000-2' }])
  })

  it('may be a snapshot of any size, and what ends the answer after it', async () => {
    const queue = new ReplyQueue('1000-0')
    queue.push({ type: 'Snapshot', runId: 'r', text: 'x'.repeat(7_000_000), cursor: '1000-5' })
    queue.push(toolCall(6))
    queue.end()
    expect((await drain(queue)).map(({ type }) => type)).toEqual(['Snapshot', 'ToolCallFinished'])
  })

  it('may be taken without a promise for each, and waited for', async () => {
    const queue = new ReplyQueue('1000-0')
    expect(queue.take()).toBeNull()
    const arrival = queue.arrival()
    queue.push(text(1, 10))
    queue.push(toolCall(2))
    await arrival
    expect(queue.arrival()).toBeNull()
    expect([queue.take()?.type, queue.take()?.type, queue.take()]).toEqual(['TextDelta', 'ToolCallFinished', null])
    const end = queue.arrival()
    queue.end(new Error('over'))
    await end
    expect([queue.arrival(), queue.take()]).toEqual([null, null])
    await expect(queue.next()).rejects.toThrow('over')
  })
})
