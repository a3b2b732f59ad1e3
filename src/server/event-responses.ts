import type { ExecutionResult } from 'graphql'
import type { Plugin } from 'graphql-yoga'
import { type EventResults, EventStream, singleEvent } from './event-stream.ts'

type Options = {
  /** Between signs of life, in milliseconds. */
  keepAliveMs: number
  /** Called with each stream that opens. */
  onOpen: (request: Request, stream: EventStream) => void
}

/** Answers subscriptions, and whatever else is asked for as `text/event-stream`, with server-sent events. */
export function useEventResponses({ keepAliveMs, onOpen }: Options): Plugin {
  return {
    onResultProcess({ request, result, setResultProcessor }) {
      const accept = request.headers.get('accept') ?? '*/*'
      if (isStream(result)) {
        // Yoga answers 406 to who accepts no stream; the subscription must end all the same.
        if (!/text\/event-stream|text\/\*|\*\/\*/.test(accept)) return void result.return?.()
        setResultProcessor((_result, fetchAPI) => {
          const stream = new EventStream(result, keepAliveMs)
          onOpen(request, stream)
          // Nobody reads the stream, nor ends it, when the client left before there was one.
          if (request.signal.aborted) stream.destroy()
          request.signal.addEventListener('abort', () => stream.destroy(), { once: true })
          // Yoga's Response takes a Node stream, which the types of the web's do not know.
          return new fetchAPI.Response(stream as never, { headers })
        }, mediaType)
      } else if (/text\/event-stream/.test(accept) && !/json|\*\/\*/.test(accept)) {
        const single = result as ExecutionResult
        setResultProcessor((_result, fetchAPI) => new fetchAPI.Response(singleEvent(single), responseOf(single)), mediaType)
      }
    },
  }
}

const mediaType = 'text/event-stream'

/** Proxies must neither keep nor hold back what is streamed. */
const headers = {
  'Content-Type': `${mediaType}; charset=utf-8`,
  'Cache-Control': 'no-cache, no-transform',
  'X-Accel-Buffering': 'no',
}

function isStream(result: unknown): result is EventResults {
  return typeof result === 'object' && result !== null && Symbol.asyncIterator in result
}

function responseOf({ errors = [], extensions: own }: ExecutionResult): ResponseInit {
  const hints = [own, ...errors.map(({ extensions }) => extensions)].map(
    (extensions) => extensions?.['http'] as { status?: number; headers?: Record<string, string> } | undefined,
  )
  return {
    status: Math.max(200, ...hints.map((http) => http?.status ?? 0)),
    headers: Object.assign({}, headers, ...hints.map((http) => http?.headers)),
  }
}
