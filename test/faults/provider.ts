import { setTimeout as delay } from 'node:timers/promises'
import { type FakeUpstream, startFakeUpstream, type UpstreamRequest, type UpstreamScript } from '../support/fake-upstream.ts'

/** A call that reached the provider, and all that it would say to it. */
export type Call = {
  question: string
  request: UpstreamRequest
  arrivedAt: number
  /** Null until it is over. */
  endedAt: number | null
  text: string
  /** As it is reported when the answer comes to its end: no two calls report the same. */
  output: number
  /** Whether it costs nothing, since it was refused or nothing came of it. */
  free: boolean
}

/** How an answer is said: so many words, with a pause before each. */
export type Manner = { words?: number; delayMs?: number }

/** What a call is answered with in the place of its text. */
export type CallScript = (answer: Parameters<UpstreamScript>[0], call: Call) => void | Promise<void>

/**
 * The model provider of a stage: an HTTP server whose answer to a question is another each time, so that nothing of an answer that
 * was cut off can pass for the next one. Its bytes are cut anywhere, also within characters and events.
 */
export class Provider {
  readonly calls: Call[] = []
  readonly #upstream: FakeUpstream
  readonly #manners = new Map<string, Manner>()
  readonly #scripts = new Map<string, CallScript[]>()

  private constructor(upstream: FakeUpstream) {
    this.#upstream = upstream
    upstream.otherwise((answer) => this.#answer(answer))
  }

  static async start(): Promise<Provider> {
    return new Provider(await startFakeUpstream())
  }

  get url(): string {
    return this.#upstream.url
  }

  /** How a question is answered, when nothing else is said of it: word by word, in half a second. */
  expect(question: string, manner: Manner, ...scripts: CallScript[]): void {
    this.#manners.set(question, manner)
    this.#scripts.set(question, scripts)
  }

  callsFor(question: string): Call[] {
    return this.calls.filter((call) => call.question === question)
  }

  /** Answers that are being given. */
  get open(): number {
    return this.calls.filter(({ endedAt }) => endedAt === null).length
  }

  close(): Promise<void> {
    return this.#upstream.close()
  }

  async #answer(answer: Parameters<UpstreamScript>[0]): Promise<void> {
    const { request } = answer
    const question = request.body.messages.findLast(({ role }) => role === 'user')?.content ?? ''
    const output = this.calls.length + 1
    const text = wordsOf(question, output, this.#manners.get(question)?.words ?? 20)
    const call: Call = { question, request, arrivedAt: performance.now(), endedAt: null, text, output, free: false }
    this.calls.push(call)
    void request.closed.then(() => {
      call.endedAt = performance.now()
    })
    const script = this.#scripts.get(question)?.shift()
    await (script ?? saysAll(this.#manners.get(question)))(answer, call)
  }
}

/** The whole answer, and what it cost. */
export function saysAll({ delayMs = 25 }: Manner = {}): CallScript {
  return async (answer, call) => {
    for (const content of call.text.match(/\s*\S+/g) ?? []) {
      if (delayMs > 0) await delay(delayMs * 2 * Math.random(), undefined, { signal: answer.gone })
      const bytes = eventOf(content)
      const cut = Math.floor(Math.random() * bytes.length)
      answer.raw(bytes.subarray(0, cut))
      await new Promise(setImmediate)
      answer.raw(bytes.subarray(cut))
    }
    answer.finish('stop', { input: 100, output: call.output })
  }
}

/** So much of the answer's bytes, from 0 for none to 1 for all of its text, and then nothing more, with the connection open. */
export function saysPart(part: number): CallScript {
  return async (answer, { text, request }) => {
    const bytes = Buffer.concat((text.match(/\s*\S+/g) ?? []).map(eventOf))
    answer.raw(bytes.subarray(0, Math.floor(bytes.length * part)))
    await request.closed
  }
}

/** Calls a tool without arguments. */
export function callsTool(name: string): CallScript {
  return (answer, { output }) => {
    const tool = { index: 0, id: `call_${output}`, type: 'function', function: { name, arguments: '{}' } }
    answer.delta({ role: 'assistant', content: null, tool_calls: [tool] })
    answer.finish('tool_calls', { input: 100, output })
  }
}

/** What is not charged for: a refusal, say. */
export function free(script: UpstreamScript): CallScript {
  return (answer, call) => {
    call.free = true
    return script(answer)
  }
}

/** The script, once `gate` has opened. */
export function after(gate: Promise<unknown>, script: CallScript): CallScript {
  return async (answer, call) => {
    await gate
    await script(answer, call)
  }
}

/** Nothing, not even headers. */
export const saysNothing: CallScript = (_answer, { request }) => request.closed

function eventOf(content: string): Buffer {
  return Buffer.from(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`)
}

const letters = ['mast', 'über', '灯台', 'naïve', '🚢', 'Ωmega', 'rope', '👩‍🚒', 'line\n', '"quoted"']

function wordsOf(question: string, call: number, count: number): string {
  const words = Array.from({ length: count }, (_, n) => `${letters[(call * 7 + n * n) % letters.length]}${n}`)
  return [`Call ${call} answers ${question}:`, ...words].join(' ')
}
