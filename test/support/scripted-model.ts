import type { Model, ModelEvent, ModelRequest } from '../../src/domain/ports.ts'
import type { TokenUsage } from '../../src/domain/run-event.ts'
import { countTokens } from '../../src/llm/token-count.ts'

/** What the model does in one call. Whatever it throws, the call throws. */
export type ModelScript = (request: ModelRequest, signal: AbortSignal) => AsyncIterable<ModelEvent>

/** A Model that does what its scripts say, call by call, and the last one from then on. */
export type ScriptedModel = Model & { requests: ModelRequest[] }

export type ScriptedModelOptions = {
  /** Tokens. Default 10,000. */
  contextWindow?: number
  /** Whether it hides reasoning. Default false. */
  hidesReasoning?: boolean
}

export function scriptedModel(
  scripts: ModelScript[],
  { contextWindow = 10_000, hidesReasoning = false }: ScriptedModelOptions = {},
): ScriptedModel {
  const requests: ModelRequest[] = []
  return {
    requests,
    async *stream(request, signal, { ready } = {}) {
      await ready
      const script = scripts[Math.min(requests.length, scripts.length - 1)]
      requests.push(request)
      if (!script) throw new Error('The scripted model has no script.')
      yield* script(request, signal)
    },
    contextWindow: () => contextWindow,
    hidesReasoning: () => hidesReasoning,
    countTokens: (_model, text) => countTokens(text),
  }
}

export function usage(inputTokens: number, outputTokens: number): TokenUsage {
  return { inputTokens, cachedInputTokens: 0, outputTokens, reasoningTokens: 0, estimated: false }
}

/** Says the pieces, one event each. Reports 10 tokens in and one out for each piece, unless `reported` is null. */
export function says(pieces: string | string[], reported?: TokenUsage | null): ModelScript {
  return async function* () {
    const texts = [pieces].flat()
    for (const text of texts) yield { type: 'text', text }
    if (reported !== null) yield { type: 'usage', usage: reported ?? usage(10, texts.length) }
    yield { type: 'finish', reason: 'STOP' }
  }
}

/** Calls tools, after saying `text`. */
export function callsTools(calls: { name: string; arguments: string; id?: string }[], text = ''): ModelScript {
  return async function* () {
    if (text) yield { type: 'text', text }
    for (const [index, { id, ...call }] of calls.entries()) {
      yield { type: 'toolCall', call: { id: id ?? `call_${index}`, ...call } }
    }
    yield { type: 'usage', usage: usage(10, 5) }
    yield { type: 'finish', reason: 'TOOL_CALLS' }
  }
}

/** Says the pieces, then throws. */
export function failsAfter(pieces: string[], error: unknown): ModelScript {
  return async function* () {
    for (const text of pieces) yield { type: 'text', text }
    throw error
  }
}

/** Says the pieces, then nothing until the call is aborted. */
export function hangsAfter(pieces: string[] = []): ModelScript {
  return async function* (_request, signal) {
    for (const text of pieces) yield { type: 'text', text }
    await new Promise((_resolve, reject) => {
      signal.throwIfAborted()
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })
  }
}
