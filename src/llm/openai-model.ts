import OpenAI from 'openai'
import type { ChatCompletionCreateParamsStreaming, ChatCompletionMessageParam } from 'openai/resources/chat/completions'
import type { Model, ModelAccount, ModelCallOptions, ModelEvent, ModelMessage, ModelRequest } from '../domain/ports.ts'
import { CompletionReader, joinTexts } from './completion-stream.ts'
import { profileOf } from './model-catalog.ts'
import { modelFailure, unconfigured } from './model-failure.ts'
import { readEvents } from './server-sent-events.ts'
import { countTokens } from './token-count.ts'
import { defaultLimits, type Send, sendToProvider, sendWhen, type UpstreamLimits, watchUpstream } from './upstream-watch.ts'

export type OpenAiModelOptions = {
  /** The platform's endpoint, up to and including its version. */
  baseUrl: string
  /** The platform's key; null when it has none, and only tenants with an account of their own have answers. */
  apiKey: string | null
  limits?: Partial<UpstreamLimits>
  /** The way to endpoints that tenants chose. Default: there is none. */
  sendElsewhere?: Send | null
}

/**
 * What an answer may take on the wire: the events of common upstreams take 200 to 800 bytes per token, so twice that and a
 * megabyte for the rest. It bounds what an upstream that never ends a line can make us hold.
 */
const bytesPerToken = 2048
const bytesBesides = 1_048_576

/**
 * The Model port over any OpenAI-compatible chat completions endpoint. Throws a TypeError when `baseUrl` is no URL or `apiKey`
 * cannot be a header. Connects when a stream is first read; the iteration's end, whatever ends it, ends the call at the upstream too.
 */
export function createOpenAiModel({ sendElsewhere = null, ...options }: OpenAiModelOptions): Model {
  if (!URL.canParse(options.baseUrl)) throw new TypeError('The base URL of the model provider is not a URL.')
  if (options.apiKey !== null && !/^[\x21-\x7e]+$/.test(options.apiKey))
    throw new TypeError('The key of the model provider is empty or not ASCII text.')
  const limits = { ...defaultLimits, ...options.limits }

  /** Whom a call is made to. */
  function endpointFor(account: ModelAccount | null) {
    const apiKey = account ? account.apiKey : options.apiKey
    const send = account?.baseUrl != null ? sendElsewhere : sendToProvider
    if (apiKey === null || send === null) throw unconfigured()
    return { apiKey, baseURL: account?.baseUrl ?? options.baseUrl, send }
  }

  async function* stream(
    request: ModelRequest,
    signal: AbortSignal,
    { account = null, beat = () => null, ready = null }: ModelCallOptions = {},
  ): AsyncGenerator<ModelEvent, void> {
    signal.throwIfAborted()
    const { apiKey, baseURL, send } = endpointFor(account)
    let isAllSaid = false
    const sendNow = ready ? sendWhen(ready, send) : send
    const watch = watchUpstream(limits, bytesBesides + bytesPerToken * request.maxOutputTokens, signal, sendNow)
    try {
      // A client of its own (20 µs) gives each call its own fetch. What it would else read from the environment is null.
      const client = new OpenAI({
        baseURL,
        apiKey,
        adminAPIKey: null,
        organization: null,
        project: null,
        webhookSecret: null,
        maxRetries: 0,
        timeout: limits.totalMs,
        logLevel: 'off',
        fetch: watch.fetch,
      })
      // Its own reading of a stream takes some twenty promises for each token.
      await client.chat.completions.create(completionParams(request), { signal: watch.signal }).asResponse()
      const completion = new CompletionReader()
      try {
        for await (const chunks of readEvents(watch.read(beat))) {
          // Also what came before an abort and waited for its beat: the provider charges for it.
          for (const event of joinTexts(chunks.flatMap((chunk) => completion.read(chunk)))) {
            watch.tokenArrived()
            yield event
          }
        }
        isAllSaid = true
      } catch (error) {
        if (!completion.isFinished) throw error
      }
      signal.throwIfAborted()
      yield* completion.end()
    } catch (error) {
      // The client ends an aborted stream in silence or with an error of its own: the reason is ours.
      throw watch.signal.aborted ? watch.signal.reason : modelFailure(error)
    } finally {
      watch.close(isAllSaid)
    }
  }

  return {
    stream,
    contextWindow: (model) => profileOf(model).contextWindow,
    hidesReasoning: (model) => profileOf(model).reasoning,
    countTokens: (_model, text) => countTokens(text),
  }
}

function completionParams(request: ModelRequest): ChatCompletionCreateParamsStreaming {
  const { reasoning, outputBound } = profileOf(request.model)
  return {
    model: request.model,
    messages: request.messages.map(messageParam),
    ...(reasoning ? {} : { temperature: request.temperature }),
    [outputBound]: request.maxOutputTokens,
    ...(request.tools.length === 0 ? {} : { tools: request.tools.map((tool) => ({ type: 'function', function: tool })) }),
    stream: true,
    stream_options: { include_usage: true },
  }
}

function messageParam(message: ModelMessage): ChatCompletionMessageParam {
  switch (message.role) {
    case 'system':
    case 'user':
      return { role: message.role, content: message.content }
    case 'tool':
      return { role: 'tool', tool_call_id: message.toolCallId, content: message.content }
    case 'assistant':
      if (!message.toolCalls?.length) return { role: 'assistant', content: message.content }
      return {
        role: 'assistant',
        content: message.content || null,
        tool_calls: message.toolCalls.map((call) => ({
          id: call.id,
          type: 'function',
          function: { name: call.name, arguments: call.arguments },
        })),
      }
    default:
      return message satisfies never
  }
}
