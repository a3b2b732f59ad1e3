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
    for (let seq = 1; seq <= 1_000; seq++) queue.push(toolCall(seq))
    expect(queue.ended).toBe(false)
    queue.push(toolCall(1_001))
    expect(queue.ended).toBe(true)
    expect(await drain(queue)).toEqual([{ type: 'Lagged', cursor: '1000-0', resumeAfter: '1000-0' }])
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
    queue.push(text(1, 1_048_577))
    for (let seq = 2; seq < 10; seq++) queue.push(text(seq, 1_000_000))
    expect(await drain(queue)).toHaveLength(1)
  })
})
