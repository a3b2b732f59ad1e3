import { Agent, request } from 'node:http'

/** What is said: how many tokens, and the pause between two of them in milliseconds; 0 says them as fast as they are taken. */
export type Order = { tokens: number; pause: number }

/** One answer, as its reader saw it. In milliseconds since it was asked for; `started` is when it was begun, by who can tell. */
export type Answer = { firstToken: number; started?: number }

/** Whatever answers messages by streams. */
export type Streamer = {
  name: string
  /** Processes whose CPU time it costs, besides the model's. None when that is the measuring process alone. */
  processes: number[]
  /** Those of its database. */
  database: number[]
  /** A reader of its own, that has done all that comes before the first message. */
  open(): Promise<Reader>
}

export type Reader = {
  /** What has to be there before a message can be sent; not measured. */
  prepare(): Promise<void>
  /** Sends a message and reads the answer to its end. Throws when it is not whole. */
  ask(order: Order): Promise<Answer>
  close(): void
}

export const messageFor = ({ tokens, pause }: Order) => `Say ${tokens} tokens, one every ${pause} ms.`

/** Each token has one, and nothing else does. */
const tokenMark = '~'.charCodeAt(0)

export function countTokens(bytes: Uint8Array): number {
  let count = 0
  for (let at = bytes.indexOf(tokenMark); at !== -1; at = bytes.indexOf(tokenMark, at + 1)) count += 1
  return count
}

/** A streamer that answers each POST with a stream: the model itself, and most agent servers. */
export function overHttp(name: string, processes: number[], url: string, bodyFor: (message: string) => object): Streamer {
  return {
    name,
    processes,
    database: [],
    async open() {
      const agent = new Agent({ keepAlive: true })
      return {
        prepare: async () => undefined,
        ask: (order) => post(agent, url, JSON.stringify(bodyFor(messageFor(order))), order.tokens),
        close: () => agent.destroy(),
      }
    },
  }
}

function post(agent: Agent, url: string, body: string, tokens: number): Promise<Answer> {
  const began = performance.now()
  return new Promise((resolve, reject) => {
    const headers = {
      'content-type': 'application/json',
      authorization: 'Bearer bench',
      'content-length': Buffer.byteLength(body),
    }
    const call = request(url, { method: 'POST', agent, headers }, (response) => {
      let firstToken = Number.NaN
      let read = 0
      response.on('data', (chunk: Buffer) => {
        read += countTokens(chunk)
        if (read > 0 && Number.isNaN(firstToken)) firstToken = performance.now() - began
      })
      response.on('error', reject)
      response.on('end', () => {
        // Some repeat the whole text at the end.
        if (read >= tokens) resolve({ firstToken })
        else reject(new Error(`${url} answered ${response.statusCode} with ${read} of ${tokens} tokens.`))
      })
    })
    call.on('error', reject)
    call.end(body)
  })
}
