import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/*
 * A model that says as many tokens as the last message asks for ("Say 100 tokens, one every 20 ms."), each in an event of its own, over
 * OpenAI's streaming protocol. The first comes at once. A process of its own: what a model costs is nobody's who calls it.
 */

const token = ' word~'
const event = (data: object) =>
  `data: ${JSON.stringify({ id: 'bench', object: 'chat.completion.chunk', created: 0, model: 'bench', ...data })}\n\n`
const delta = (content: string) => event({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })
const oneToken = delta(token)

/** How many events go into one write when they are not paced, as a fast upstream's arrive. */
const batch = 16

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  const order = /Say (\d+) tokens, one every (\d+) ms\./.exec(Buffer.concat(chunks).toString())
  const [count, pause] = [Number(order?.[1]), Number(order?.[2])]
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const end = () => {
    const usage = { prompt_tokens: 10, completion_tokens: count, total_tokens: count + 10 }
    response.end(
      `${event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}${event({ choices: [], usage })}data: [DONE]\n\n`,
    )
  }
  if (pause === 0) await sayAtOnce(response, count)
  else await sayPaced(response, count, pause)
  end()
})

async function sayAtOnce(response: ServerResponse, count: number): Promise<void> {
  for (let said = 0; said < count; said += batch) {
    const isTaken = response.write(oneToken.repeat(Math.min(batch, count - said)))
    if (!isTaken) await new Promise((resolve) => response.once('drain', resolve).once('close', resolve))
  }
}

function sayPaced(response: ServerResponse, count: number, pause: number): Promise<void> {
  return new Promise((resolve) => {
    let said = 1
    response.write(oneToken)
    const timer = setInterval(() => {
      if (said < count && !response.destroyed) {
        said += 1
        response.write(oneToken)
        return
      }
      clearInterval(timer)
      resolve()
    }, pause)
  })
}

server.listen(0, '127.0.0.1', () => process.send?.({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` }))
// It must not outlive the process that it serves.
process.on('disconnect', () => process.exit())
