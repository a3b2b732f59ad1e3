import { setTimeout as delay } from 'node:timers/promises'
import { type Model, type ModelAccount, ModelError, type ModelEvent, type ToolCall } from './ports.ts'
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

/** Longest pause between two of them, in milliseconds, and where another model stands by. Who asks for a longer one is not called again. */
const longestPause = 20_000
const longestPauseWithStandIn = 2_000

/** Whether another model may answer what this one did not. A request that was rejected for what is in it is nobody else's to answer. */
export function isOfOneModel({ code }: ModelError): boolean {
  return code !== 'MODEL_BAD_REQUEST'
}

/** Who the model is called for, and what becomes of what it says. */
export type Listening = {
  /** Aborts the call. */
  signal: AbortSignal
  cover: Cover
  onText: (text: string) => void
  /** Resolves when more text is of use: what comes before may come together. Null when that is now. */
  beat: () => Promise<void> | null
  /** The tenant's own; null for the platform's. */
  account: ModelAccount | null
  /** When the model may be asked; null for now. When it rejects, the signal is aborted. */
  ready: Promise<void> | null
  /** Whether another model would answer in its place. */
  hasStandIn: boolean
}

/** Lets through as much of what the model says as may be spent on it: all, or the beginning. */
export type Cover = (text: string) => Promise<string>

/**
 * Calls the model and hands its text to `onText` as it comes, as far as `cover` lets it through. The call ends where it does not. Until the first token a failure that may pass is tried again,
 * with a growing pause; after it never, since what was streamed cannot be taken back. Where another model would stand in, nobody is made to
 * wait: neither for long, nor for one that just was silent for as long as it may be. Throws what is no failure of the model.
 */
export async function callModel(model: Model, prompt: Prompt, listening: Listening): Promise<CallOutcome> {
  const { signal, hasStandIn } = listening
  for (let attempt = 1; ; attempt++) {
    const call = await tryCall(model, prompt, listening)
    if (call.outcome !== 'failed' || call.usage || !call.error.retryable || attempt === mostAttempts) return call
    if (hasStandIn && call.error.code === 'MODEL_TIMED_OUT') return call
    const pause = call.error.retryAfterMs ?? 500 * 2 ** (attempt - 1) * (0.5 + Math.random())
    if (pause > (hasStandIn ? longestPauseWithStandIn : longestPause)) return call
    try {
      await delay(pause, undefined, { signal })
    } catch {
      return { outcome: 'aborted', text: '', usage: null }
    }
  }
}

async function tryCall(model: Model, prompt: Prompt, listening: Listening): Promise<CallOutcome> {
  const { signal, cover, onText, account, beat, ready } = listening
  if (signal.aborted) return { outcome: 'aborted', text: '', usage: null }
  const repair = new TextRepair()
  const toolCalls: ToolCall[] = []
  let text = ''
  /** What came of tool calls before they were whole. */
  let toolText = ''
  let began = false
  let isAsked = ready === null
  ready?.then(
    () => {
      isAsked = !signal.aborted
    },
    () => undefined,
  )
  let reported: TokenUsage | null = null
  /** Whether the model wrote more than it reported. */
  let isStale = false
  let reason: Extract<ModelEvent, { type: 'finish' }>['reason'] | null = null
  /** False when not all of it was let through. */
  const say = async (piece: string) => {
    if (piece === '') return true
    const covered = await cover(piece)
    text += covered
    if (covered !== '') onText(covered)
    return covered.length === piece.length
  }
  // Of a call that is over the last report is of all of it.
  const usage = () =>
    reported && (reason !== null || !isStale)
      ? reported
      : countUsage(model, prompt, [text, ...(toolCalls.length > 0 ? toolCalls.flatMap(writtenIn) : [toolText])])

  try {
    for await (const event of model.stream(prompt.request, signal, { account, beat, ready })) {
      began ||= event.type !== 'usage' || event.usage.outputTokens > 0
      switch (event.type) {
        case 'text':
          isStale = true
          if (!(await say(repair.push(event.text)))) return { outcome: 'cut', text, usage: usage() }
          break
        case 'toolText': {
          isStale = true
          const covered = await cover(event.text)
          toolText += covered
          if (covered.length < event.text.length) return { outcome: 'cut', text, usage: usage() }
          break
        }
        case 'toolCall': {
          const call = { ...event.call, name: storable(event.call.name), arguments: storable(event.call.arguments) }
          const written = writtenIn(call).join('')
          // Half a call is none. What came as text is covered.
          if (toolText === '' && (await cover(written)).length < written.length) return { outcome: 'cut', text, usage: usage() }
          toolCalls.push(call)
          break
        }
        case 'usage':
          reported = event.usage
          // Some say zero until the end.
          isStale = reported.outputTokens === 0 && text + toolText !== ''
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
  // The model reads the input as soon as it gets it, so a call that is aborted from then on has cost that much.
  if (reason === null) return { outcome: 'aborted', text, usage: isAsked || began ? usage() : null }
  return { outcome: 'answered', text, toolCalls, reason, usage: usage() }
}

function endedEarly(): ModelError {
  return new ModelError('MODEL_BROKEN_STREAM', "The model's answer broke off or could not be read.", { retryable: true })
}

/** What a call used that did not say: all that was sent, and all that came. */
function countUsage(model: Model, { request, inputTokens }: Prompt, written: readonly string[]): TokenUsage {
  const outputTokens = written.reduce((sum, piece) => sum + model.countTokens(request.model, piece), 0)
  return { inputTokens, cachedInputTokens: 0, outputTokens, reasoningTokens: 0, estimated: true }
}

function writtenIn(call: ToolCall): string[] {
  return [call.name, call.arguments]
}
