import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { countedToken, tokensAskedFor } from './counted-text.ts'

/** What the upstream's process says once it listens. */
export type FromUpstream = { kind: 'listening'; port: number }

// A process of its own, since a model's work is not ours: an OpenAI-compatible endpoint that answers with counted tokens, the
// first at once, then so many each second for each stream.
const tokensPerSecond = 50

/** How often streams are looked at, in milliseconds. A stream's own beginning says when its tokens are due. */
const tick = 5

type Stream = { response: ServerResponse; began: number; sent: number; tokens: number; prompt: number }

const streams = new Set<Stream>()

const server = createServer(async (request, response) => {
  const { messages } = (await json(request)) as { messages: { content: string }[] }
  const tokens = tokensAskedFor(messages.at(-1)?.content ?? '')
  const prompt = messages.reduce((sum, { content }) => sum + Math.ceil(content.length / 4), 0)
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const stream = { response, began: performance.now(), sent: 0, tokens, prompt }
  streams.add(stream)
  response.once('close', () => streams.delete(stream))
  advance(stream, stream.began)
})

setInterval(() => {
  const now = performance.now()
  for (const stream of streams) advance(stream, now)
}, tick)

/** Sends what is due by now, each token in an event of its own. */
function advance(stream: Stream, now: number): void {
  const due = Math.min(stream.tokens, 1 + Math.floor(((now - stream.began) * tokensPerSecond) / 1_000))
  if (due === stream.sent) return
  let text = ''
  for (; stream.sent < due; stream.sent++) text += delta(countedToken(stream.sent))
  if (due < stream.tokens) {
    stream.response.write(text)
    return
  }
  streams.delete(stream)
  stream.response.end(`${text}${delta('', 'stop')}${usage(stream)}data: [DONE]\n\n`)
}

const head = '"id":"bench","object":"chat.completion.chunk","created":0,"model":"gpt-4o-mini"'

function delta(content: string, finishReason: string | null = null): string {
  const choice = JSON.stringify({ index: 0, delta: content === '' ? {} : { content }, finish_reason: finishReason })
  return `data: {${head},"choices":[${choice}],"usage":null}\n\n`
}

function usage({ prompt, tokens }: Stream): string {
  const counts = { prompt_tokens: prompt, completion_tokens: tokens, total_tokens: prompt + tokens }
  return `data: {${head},"choices":[],"usage":${JSON.stringify(counts)}}\n\n`
}

server.listen(0, '127.0.0.1')
await once(server, 'listening')
process.send?.({ kind: 'listening', port: (server.address() as AddressInfo).port } satisfies FromUpstream)
// It must not outlive the process that it serves.
process.on('disconnect', () => process.exit())
