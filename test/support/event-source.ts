type ServerSentEvent = { event: string; id: string | null; data: unknown }

export type EventSource = {
  status: number
  headers: Headers
  /** The next event, comments left out; null when the response has ended. */
  next(): Promise<ServerSentEvent | null>
  /** Every event from here until the response ends. */
  rest(): Promise<ServerSentEvent[]>
  /** Hangs up. */
  close(): void
}

/** Sends an operation and reads the answer as server-sent events. */
export async function openEventSource(
  url: string,
  key: string | null,
  body: { query: string; variables?: Record<string, unknown> },
  headers: Record<string, string> = {},
): Promise<EventSource> {
  const hangUp = new AbortController()
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    signal: hangUp.signal,
    headers: {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...headers,
    },
    body: JSON.stringify(body),
  })
  const events = read(response)
  return {
    status: response.status,
    headers: response.headers,
    next: async () => (await events.next()).value ?? null,
    async rest() {
      const all: ServerSentEvent[] = []
      for await (const event of events) all.push(event)
      return all
    },
    close: () => hangUp.abort(),
  }
}

async function* read(response: Response): AsyncGenerator<ServerSentEvent, void> {
  let text = ''
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk
    const blocks = text.split('\n\n')
    text = blocks.pop() ?? ''
    for (const block of blocks) if (!block.startsWith(':')) yield parse(block)
  }
}

function parse(block: string): ServerSentEvent {
  const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, 'm').exec(block)?.[1] ?? null
  const data = field('data')
  return { event: field('event') ?? 'message', id: field('id'), data: data ? JSON.parse(data) : null }
}
