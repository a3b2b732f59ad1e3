import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readEvents } from '../../src/llm/server-sent-events.ts'

async function* inPieces(bytes: Uint8Array, cuts: readonly number[]): AsyncGenerator<Uint8Array> {
  const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  let begin = 0
  for (const end of [...ends, bytes.length]) {
    yield bytes.subarray(begin, end)
    begin = end
  }
}

async function read(text: string, cuts: readonly number[] = []): Promise<unknown[]> {
  const events: unknown[] = []
  for await (const arrived of readEvents(inPieces(Buffer.from(text), cuts))) events.push(...arrived)
  return events
}

test('events are the same wherever their bytes are cut, whatever ends their lines', async () => {
  const json = fc.record({ text: fc.string({ unit: 'grapheme' }) })
  const lineEnd = fc.constantFrom('\n', '\r\n')
  await fc.assert(
    fc.asyncProperty(fc.array(json), lineEnd, fc.array(fc.nat()), fc.boolean(), async (sent, end, cuts, isEnded) => {
      const lines = sent.map((event) => `: alive${end}data: ${JSON.stringify(event)}`).join(end + end)
      expect(await read(isEnded ? `${lines}${end}${end}data: [DONE]${end}${end}data: nonsense` : lines, cuts)).toEqual(sent)
    }),
  )
})

test.each([
  ['what is no JSON', 'data: {"a": 1}\n\ndata: {"b"\n\n', 'MODEL_BROKEN_STREAM'],
  ['an error in an event', 'data: {"a": 1}\n\ndata: {"error": {"message": "secret"}}\n\n', 'MODEL_UNAVAILABLE'],
  ['an event that is an error', 'data: {"a": 1}\n\nevent: error\ndata: {"message": "secret"}\n\n', 'MODEL_UNAVAILABLE'],
])('%s ends them with a ModelError, after what came before it', async (_what, text, code) => {
  const events: unknown[] = []
  const reading = (async () => {
    for await (const arrived of readEvents(inPieces(Buffer.from(text), []))) events.push(...arrived)
  })()
  await expect(reading).rejects.toMatchObject({ name: 'ModelError', code, message: expect.not.stringContaining('secret') })
  expect(events).toEqual([{ a: 1 }])
})
