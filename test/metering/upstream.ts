import { setTimeout as delay } from 'node:timers/promises'
import { countTokens } from 'gpt-tokenizer/encoding/o200k_base'
import { type FakeUpstream, startFakeUpstream, type UpstreamAnswer, type UpstreamBody } from '../support/fake-upstream.ts'
import type { Answer, Cut, Usage } from './cut.ts'

/** A call as the upstream itself counted it. */
export type Call = {
  cut: Cut
  /** Which worker made it. */
  worker: string
  model: string
  /** What the messages and tools of the request come to. */
  inputTokens: number
  /** What was written into the socket, in whole events: text, and names and arguments of tools. */
  text: string
  toolName: string
  toolArguments: string
  /** What it last said that it used. Null while it said nothing of it. */
  reported: Usage | null
  /** Nothing came of it, and it was the upstream that ended it. */
  isFree: boolean
  endedAt: number | null
}

/** Each text is counted as a whole. */
export function writtenTokens({ text, toolName, toolArguments }: Call): number {
  return countTokens(text) + countTokens(toolName) + countTokens(toolArguments)
}

/** A model provider over HTTP that keeps books of its own: what it was sent, wrote and reported in each call. */
export class Upstream {
  readonly calls: Call[] = []
  readonly #fake: FakeUpstream
  readonly #cuts: readonly Cut[]
  /** Told when the first call of a cut has come as far as it is to come. */
  readonly #onCut: (call: Call) => void

  private constructor(fake: FakeUpstream, cuts: readonly Cut[], onCut: (call: Call) => void) {
    this.#fake = fake
    this.#cuts = cuts
    this.#onCut = onCut
    fake.otherwise((answer) => this.#answer(answer))
  }

  static async start(cuts: readonly Cut[], onCut: (call: Call) => void): Promise<Upstream> {
    return new Upstream(await startFakeUpstream(), cuts, onCut)
  }

  get url(): string {
    return this.#fake.url
  }

  /** Its address for one worker, so that it is known which one calls. */
  urlFor(worker: string): string {
    return this.#fake.url.replace(/\/v1$/, `/${worker}/v1`)
  }

  callsOf(cut: Cut): Call[] {
    return this.calls.filter((call) => call.cut === cut)
  }

  close(): Promise<void> {
    return this.#fake.close()
  }

  async #answer(answer: UpstreamAnswer): Promise<void> {
    const { request } = answer
    const asked = request.body.messages.findLast(({ role }) => role === 'user')?.content ?? ''
    const cut = this.#cuts[Number(/^Cut (\d+) /.exec(asked)?.[1]) - 1]
    if (!cut) throw new Error(`Nobody was to ask ${JSON.stringify(asked)}.`)
    const earlier = this.callsOf(cut).length
    const call: Call = {
      ...{ cut, worker: request.path.split('/')[1] ?? '', model: request.body.model, inputTokens: inputTokens(request.body) },
      ...{ text: '', toolName: '', toolArguments: '', reported: null, isFree: false, endedAt: null },
    }
    this.calls.push(call)
    void request.closed.then(() => {
      call.endedAt = performance.now()
      call.isFree = !request.aborted && call.text === '' && call.toolName === '' && call.reported === null
    })
    const speaker = new Speaker(answer, call, cut.answer(earlier), () => {
      if (earlier === 0) this.#onCut(call)
    })
    await scriptOf(cut, earlier, speaker)
  }
}

/** Tokens of everything in a request, and eight for the frame of each message and of each call of a tool in it. */
function inputTokens({ messages, tools = [] }: UpstreamBody): number {
  const said = messages.flatMap(({ content, tool_calls: calls = [] }) => [
    content ?? '',
    ...(calls as { function: { name: string; arguments: string } }[]).flatMap((call) => [
      call.function.name,
      call.function.arguments,
    ]),
  ])
  const frames = messages.reduce((sum, { tool_calls: calls = [] }) => sum + 1 + calls.length, 0)
  const defined = tools.length === 0 ? '' : JSON.stringify(tools.map((tool) => tool.function))
  return [...said, defined].reduce((sum, text) => sum + countTokens(text), 8 * frames)
}

async function scriptOf({ kind, at, failures }: Cut, earlier: number, speaker: Speaker): Promise<void> {
  const { mishap, reports = 'whole' } = kind
  const isRunning = reports === 'running'
  const last = speaker.chunks
  const place = Math.round(at * last)
  const amid = Math.max(1, place)
  switch (mishap) {
    case 'refuses':
      if (earlier < failures) return speaker.refuse(at < 0.5 ? 429 : 500)
      break
    case 'givesWay':
      if (earlier === 0) return speaker.refuse(404)
      break
    case 'breaksBefore':
      if (earlier < failures) return speaker.breakOff()
      break
    case 'breaksAmid':
    case 'breaksReporting':
      await speaker.say(amid, isRunning)
      return speaker.breakOff()
    case 'garbage':
      await speaker.say(amid)
      return speaker.garble()
    case 'breaksAtEnd':
      await speaker.say(last)
      return speaker.breakOff()
    case 'breaksBeforeUsage':
      await speaker.say(last)
      speaker.giveReason()
      return speaker.breakOff()
    case 'breaksAfterUsage':
      await speaker.say(last)
      speaker.giveReason()
      speaker.report()
      return speaker.breakOff()
    case 'waitsAfterUsage':
      await speaker.say(last)
      speaker.giveReason()
      speaker.report()
      return speaker.wait()
    case 'callsTool':
      if (earlier === 0) return speaker.callTool()
      break
    case 'breaksTool':
      return speaker.callTool(at)
    case undefined:
      break
    default:
      mishap satisfies never
  }
  await speaker.say(last, isRunning, place)
  speaker.giveReason()
  if (reports !== 'nothing') speaker.report()
  speaker.end()
}

/** Says an answer, and notes in the books of its call what was written. */
class Speaker {
  readonly #answer: UpstreamAnswer
  readonly #call: Call
  readonly #said: Answer
  readonly #onCut: () => void

  constructor(answer: UpstreamAnswer, call: Call, said: Answer, onCut: () => void) {
    this.#answer = answer
    this.#call = call
    this.#said = said
    this.#onCut = onCut
  }

  get chunks(): number {
    return this.#said.chunks.length
  }

  refuse(status: number): void {
    this.#answer.fail(status)
  }

  /** So many chunks. The cut is made before the chunk `cutAt`, if it is one of them, and else after the last. */
  async say(count: number, isReporting = false, cutAt?: number): Promise<void> {
    const { chunks, pauseMs, usage } = this.#said
    if (cutAt !== 0) this.#answer.delta({ role: 'assistant', content: '' })
    for (const [index, content] of chunks.slice(0, count).entries()) {
      if (index === cutAt) this.#onCut()
      await delay(2 * pauseMs * Math.random(), undefined, { signal: this.#answer.gone })
      const output = Math.ceil((usage.output * (index + 1)) / chunks.length)
      const event = { choices: [{ index: 0, delta: { content }, finish_reason: null }] }
      await this.#write({ ...event, usage: isReporting ? onTheWire({ ...usage, output }) : null })
      this.#call.text += content
      if (isReporting) this.#call.reported = { ...usage, output }
    }
    if (cutAt !== undefined && cutAt >= count) this.#onCut()
  }

  /** The call of a tool with much white space in its arguments, as far as `part` of it. */
  async callTool(part = 1): Promise<void> {
    const { pauseMs, chunks } = this.#said
    const fragments = ['{"timeZone":', ...chunks.map((chunk) => ' '.repeat(chunk.length)), '"Europe/Oslo"', '}']
    const id = `call_${this.#call.cut.number}`
    this.#answer.delta({ tool_calls: [{ index: 0, id, type: 'function', function: { name: 'current_time', arguments: '' } }] })
    this.#call.toolName = 'current_time'
    for (const fragment of fragments.slice(0, Math.ceil(part * (fragments.length - 1)) + Math.floor(part))) {
      await delay(2 * pauseMs * Math.random(), undefined, { signal: this.#answer.gone })
      this.#answer.delta({ tool_calls: [{ index: 0, function: { arguments: fragment } }] })
      this.#call.toolArguments += fragment
    }
    if (part < 1) return this.breakOff()
    this.#answer.delta({}, 'tool_calls')
    this.report()
    this.end()
  }

  giveReason(): void {
    this.#answer.delta({}, 'stop')
  }

  report(): void {
    const { usage } = this.#said
    this.#answer.event({ choices: [], usage: onTheWire(usage) })
    this.#call.reported = usage
  }

  async garble(): Promise<void> {
    this.#answer.raw(Buffer.from('data: {"choices": [{"delta": {"conte\xff\xfe\n\n', 'latin1'))
    await this.#answer.request.closed
  }

  async wait(): Promise<void> {
    this.#onCut()
    await delay(60_000, undefined, { signal: this.#answer.gone })
    this.end()
  }

  end(): void {
    this.#answer.raw('data: [DONE]\n\n')
    this.#answer.end()
  }

  /** As soon as all is with the operating system. */
  async breakOff(): Promise<void> {
    this.#answer.start()
    await new Promise(setImmediate)
    this.#answer.destroy()
  }

  /** In two pieces, which are cut anywhere. */
  async #write(event: unknown): Promise<void> {
    const bytes = Buffer.from(`data: ${JSON.stringify(event)}\n\n`)
    const cut = Math.floor(Math.random() * bytes.length)
    this.#answer.raw(bytes.subarray(0, cut))
    await new Promise(setImmediate)
    this.#answer.raw(bytes.subarray(cut))
  }
}

function onTheWire({ input, cached, output, reasoning }: Usage) {
  return {
    ...{ prompt_tokens: input, completion_tokens: output, total_tokens: input + output },
    prompt_tokens_details: { cached_tokens: cached },
    completion_tokens_details: { reasoning_tokens: reasoning },
  }
}
