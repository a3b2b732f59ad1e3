import { createParser } from 'eventsource-parser'
import { brokenStream, unavailable } from './model-failure.ts'

/** By this a chat completion's stream says that nothing follows. */
const sentinel = '[DONE]'

/**
 * The JSON of a chat completion's server-sent events, those that arrived together at a time, until the one that says that there are no
 * more. Throws a ModelError for one that is no JSON, and for one by which the upstream says that it failed.
 */
export async function* readEvents(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<unknown[], void> {
  let arrived: unknown[] = []
  let failure: Error | null = null
  let isOver = false
  const parser = createParser({
    onEvent({ event, data }) {
      if (isOver || failure) return
      if (data === sentinel) isOver = true
      else if (event === 'error') failure = unavailable(null)
      else {
        const json = parseJson(data)
        failure = json === undefined ? brokenStream() : saysError(json) ? unavailable(null) : null
        if (!failure) arrived.push(json)
      }
    },
  })
  const decoder = new TextDecoder()
  const take = (text: string) => {
    parser.feed(text)
    const events = arrived
    arrived = []
    return events
  }
  for await (const chunk of bytes) {
    const events = take(decoder.decode(chunk, { stream: true }))
    if (events.length > 0) yield events
    if (failure) throw failure
    if (isOver) return
  }
  // Some end without the blank line that ends an event.
  const last = take(`${decoder.decode()}\n\n`)
  if (last.length > 0) yield last
  if (failure) throw failure
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function saysError(json: unknown): boolean {
  return typeof json === 'object' && json !== null && 'error' in json && Boolean(json.error)
}
