import { setTimeout as delay } from 'node:timers/promises'
import { type Model, ModelError, type ModelEvent, type ToolCall } from './ports.ts'
import type { Prompt } from './prompt.ts'
import type { TokenUsage } from './run-event.ts'
import { storable, TextRepair } from './text-repair.ts'

/** How a model call ended. `text` is what was streamed; `usage` is null when the model did nothing that could cost. */
export type CallOutcome =
  | {
      outcome: 'answered'
      text: string
      toolCalls: ToolCall[]
      reason: Extract<ModelEvent, { type: 'finish' }>['reason']
      usage: TokenUsage
    }
  /** The budget had no more for what the model went on to say. */
  | { outcome: 'cut'; text: string; usage: TokenUsage }
  | { outcome: 'failed'; error: ModelError; text: string; usage: TokenUsage | null }
  | { outcome: 'aborted'; text: string; usage: TokenUsage | null }

/** Calls before the first token, the first one included. */
const mostAttempts = 3

/** Longest pause between two of them, in milliseconds. Who asks for a longer one is not called again. */
const longestPause = 20_000

/** Lets through as much of what the model says as may be spent on it: all, or the beginning. */
export type Cover = (text: string) => Promise<string>

/**
 * Calls the model and hands its text to `onText` as it comes, as far as `cover` lets it through. The call ends where it does not. Until the first token a failure that may pass is tried again,
 * with a growing pause; after it never, since what was streamed cannot be taken back. Throws what is no failure of the model.
 */
export async function callModel(
  model: Model,
  prompt: Prompt,
  signal: AbortSignal,
  cover: Cover,
  onText: (text: string) => void,
): Promise<CallOutcome> {
  for (let attempt = 1; ; attempt++) {
    const call = await tryCall(model, prompt, signal, cover, onText)
    if (call.outcome !== 'failed' || call.usage || !call.error.retryable || attempt === mostAttempts) return call
    const pause = call.error.retryAfterMs ?? 500 * 2 ** (attempt - 1) * (0.5 + Math.random())
    if (pause > longestPause) return call
    try {
      await delay(pause, undefined, { signal })
    } catch {
      return { outcome: 'aborted', text: '', usage: null }
    }
  }
}

async function tryCall(
  model: Model,
  prompt: Prompt,
  signal: AbortSignal,
  cover: Cover,
  onText: (text: string) => void,
): Promise<CallOutcome> {
  if (signal.aborted) return { outcome: 'aborted', text: '', usage: null }
  const repair = new TextRepair()
  const toolCalls: ToolCall[] = []
  let text = ''
  let began = false
  let reported: TokenUsage | null = null
  let reason: Extract<ModelEvent, { type: 'finish' }>['reason'] | null = null
  /** False when not all of it was let through. */
  const say = async (piece: string) => {
    if (piece === '') return true
    const covered = await cover(piece)
    text += covered
    if (covered !== '') onText(covered)
    return covered.length === piece.length
  }
  const usage = () => reported ?? countUsage(model, prompt, text, toolCalls)

  try {
    for await (const event of model.stream(prompt.request, signal)) {
      began = true
      switch (event.type) {
        case 'text':
          if (!(await say(repair.push(event.text)))) return { outcome: 'cut', text, usage: usage() }
          break
        case 'toolCall': {
          const call = { ...event.call, name: storable(event.call.name), arguments: storable(event.call.arguments) }
          const written = call.name + call.arguments
          // Half a call is none.
          if ((await cover(written)).length < written.length) return { outcome: 'cut', text, usage: usage() }
          toolCalls.push(call)
          break
        }
        case 'usage':
          reported = event.usage
          break
        case 'finish':
          reason = event.reason
          break
        default:
          event satisfies never
      }
    }
    if (!(await say(repair.end()))) return { outcome: 'cut', text, usage: usage() }
    if (reason === null && !signal.aborted) throw endedEarly()
  } catch (error) {
    if (!signal.aborted) {
      if (!(error instanceof ModelError)) throw error
      return { outcome: 'failed', error, text, usage: began ? usage() : null }
    }
  }
  // The model reads the input as soon as it gets it, so an aborted call has cost that much.
  if (reason === null) return { outcome: 'aborted', text, usage: usage() }
  return { outcome: 'answered', text, toolCalls, reason, usage: usage() }
}

function endedEarly(): ModelError {
  return new ModelError('MODEL_BROKEN_STREAM', "The model's answer broke off or could not be read.", { retryable: true })
}

/** What a call used that did not say: all that was sent, and all that came. */
function countUsage(model: Model, { request, inputTokens }: Prompt, text: string, toolCalls: readonly ToolCall[]): TokenUsage {
  const written = [text, ...toolCalls.flatMap((call) => [call.name, call.arguments])]
  const outputTokens = written.reduce((sum, piece) => sum + model.countTokens(request.model, piece), 0)
  return { inputTokens, cachedInputTokens: 0, outputTokens, reasoningTokens: 0, estimated: true }
}
