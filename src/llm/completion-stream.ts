import { z } from 'zod'
import { newId } from '../domain/ids.ts'
import type { ModelEvent, ToolCall } from '../domain/ports.ts'
import type { TokenUsage } from '../domain/run-event.ts'
import { brokenStream } from './model-failure.ts'

const toolCallFragment = z.object({
  index: z.int().nullish(),
  id: z.string().nullish(),
  function: z.object({ name: z.string().nullish(), arguments: z.string().nullish() }).nullish(),
})

const chunkSchema = z.object({
  choices: z
    .array(
      z.object({
        delta: z
          .object({
            content: z.string().nullish(),
            refusal: z.string().nullish(),
            tool_calls: z.array(toolCallFragment).nullish(),
          })
          .nullish(),
        finish_reason: z.string().nullish(),
      }),
    )
    .nullish(),
  usage: z.unknown().optional(),
})

/** Bounded by what the ledger's columns hold. */
const tokens = z.int().min(0).max(2_147_483_647)

const usageSchema = z.object({
  prompt_tokens: tokens,
  completion_tokens: tokens,
  prompt_tokens_details: z.object({ cached_tokens: tokens.nullish() }).nullish(),
  completion_tokens_details: z.object({ reasoning_tokens: tokens.nullish() }).nullish(),
})

/**
 * Reads the chunks of one streamed chat completion. Text comes out as it arrives, and so does usage; tool calls as text, and whole once
 * the model has finished them; last the reason the model ended.
 */
export class CompletionReader {
  readonly #calls = new ToolCallAssembly()
  #finishReason: string | null = null
  #refused = false

  /** Whether the model said that it is done. What arrives after that may be lost without harm. */
  get isFinished(): boolean {
    return this.#finishReason !== null
  }

  /** What is in a chunk. Throws a ModelError when it is not the protocol. */
  read(chunk: unknown): ModelEvent[] {
    const { data } = chunkSchema.safeParse(chunk)
    if (!data) throw brokenStream()
    const events: ModelEvent[] = []
    const choice = data.choices?.[0]
    this.#refused ||= Boolean(choice?.delta?.refusal)
    const text = choice?.delta?.content || choice?.delta?.refusal
    if (text) events.push({ type: 'text', text })
    for (const fragment of choice?.delta?.tool_calls ?? []) {
      const written = this.#calls.add(fragment)
      if (written) events.push({ type: 'toolText', text: written })
    }
    this.#finishReason = choice?.finish_reason || this.#finishReason
    // Some upstreams report usage so far with every chunk: the last report counts.
    const usage = readUsage(data.usage)
    if (usage) events.push({ type: 'usage', usage })
    return events
  }

  /** What there is to tell once no more chunks come. Throws a ModelError when they ended without a reason. */
  end(): ModelEvent[] {
    if (this.#finishReason === null) throw brokenStream()
    const reason = this.#refused ? 'REFUSAL' : readFinishReason(this.#finishReason, this.#calls.size > 0)
    const calls = reason === 'TOOL_CALLS' ? this.#calls.finished() : []
    return [...calls.map((call) => ({ type: 'toolCall', call }) as const), { type: 'finish', reason }]
  }
}

/** The same events, with neighbouring texts in one. */
export function joinTexts(events: readonly ModelEvent[]): ModelEvent[] {
  const joined: ModelEvent[] = []
  for (const event of events) {
    const last = joined.at(-1)
    if (event.type === 'text' && last?.type === 'text') joined[joined.length - 1] = { type: 'text', text: last.text + event.text }
    else joined.push(event)
  }
  return joined
}

type FinishReason = Extract<ModelEvent, { type: 'finish' }>['reason']

function readFinishReason(reason: string, hasCalls: boolean): FinishReason {
  switch (reason) {
    case 'length':
      // Calls that were cut off are dropped: their arguments cannot be trusted.
      return 'LENGTH'
    case 'content_filter':
      return 'REFUSAL'
    case 'tool_calls':
    case 'function_call':
      if (!hasCalls) throw brokenStream()
      return 'TOOL_CALLS'
    case 'error':
      throw brokenStream()
    default:
      // Several compatible servers say `stop` after tool calls too.
      return hasCalls ? 'TOOL_CALLS' : 'STOP'
  }
}

/** The usage that `reported` states; null when it states none, or nonsense. A part is never larger than its whole. */
function readUsage(reported: unknown): TokenUsage | null {
  // Of most chunks; to have that refused takes as long as all else of them.
  if (reported === undefined || reported === null) return null
  const { data } = usageSchema.safeParse(reported)
  if (!data) return null
  const { prompt_tokens: inputTokens, completion_tokens: outputTokens } = data
  return {
    inputTokens,
    cachedInputTokens: Math.min(data.prompt_tokens_details?.cached_tokens ?? 0, inputTokens),
    outputTokens,
    reasoningTokens: Math.min(data.completion_tokens_details?.reasoning_tokens ?? 0, outputTokens),
    estimated: false,
  }
}

/** Puts tool calls together: the first fragment of a call brings id and name, all bring pieces of the arguments. */
class ToolCallAssembly {
  #calls: ToolCall[] = []
  #byIndex = new Map<number, ToolCall>()

  get size(): number {
    return this.#calls.length
  }

  /** Answers what the model wrote in it. */
  add(fragment: z.output<typeof toolCallFragment>): string {
    const index = fragment.index ?? 0
    let call = this.#byIndex.get(index)
    // Some upstreams number every call 0 and tell them apart by id alone.
    if (!call || (fragment.id && fragment.id !== call.id)) {
      call = { id: fragment.id || `call_${newId()}`, name: '', arguments: '' }
      this.#calls.push(call)
      this.#byIndex.set(index, call)
    }
    const name = call.name ? '' : (fragment.function?.name ?? '')
    const text = fragment.function?.arguments ?? ''
    call.name ||= name
    call.arguments += text
    return name + text
  }

  finished(): ToolCall[] {
    if (this.#calls.some((call) => call.name === '')) throw brokenStream()
    return this.#calls
  }
}
