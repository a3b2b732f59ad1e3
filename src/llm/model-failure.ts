import { APIConnectionError, APIConnectionTimeoutError, APIError } from 'openai'
import { ModelError } from '../domain/ports.ts'

const dayMs = 86_400_000

export function timedOut(): ModelError {
  return new ModelError('MODEL_TIMED_OUT', 'The model did not answer in time.', { retryable: true })
}

export function brokenStream(): ModelError {
  return new ModelError('MODEL_BROKEN_STREAM', "The model's answer broke off or could not be read.", { retryable: true })
}

export function unconfigured(): ModelError {
  return new ModelError('MODEL_REFUSED', 'No model provider is configured on this platform.', { retryable: false })
}

/**
 * The ModelError for whatever the client threw. Neither its message nor its cause holds the upstream's words, its address or a
 * key: the cause is a transport code such as ECONNREFUSED, or nothing.
 */
export function modelFailure(error: unknown): ModelError {
  if (error instanceof ModelError) return error
  if (error instanceof APIConnectionTimeoutError) return timedOut()
  if (error instanceof APIConnectionError) return connectionFailure(rootCause(error))
  if (error instanceof APIError) return error.status === undefined ? unavailable(null) : refusal(error, error.status)
  return brokenStream()
}

function connectionFailure(cause: Error): ModelError {
  // Something listens there, and it is no HTTP server.
  if (cause.name === 'HTTPParserError') return brokenStream()
  const code = 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined
  return new ModelError('MODEL_UNAVAILABLE', 'The model provider cannot be reached.', { retryable: true, cause: code })
}

function refusal(error: APIError, status: number): ModelError {
  const retryAfterMs = error.headers ? parseRetryAfter(error.headers, Date.now()) : null
  if (status === 429) {
    // Out of credit, says OpenAI with the same status; waiting does not help.
    const retryable = error.code !== 'insufficient_quota'
    return new ModelError('MODEL_RATE_LIMITED', 'The model provider is limiting our requests.', { retryable, retryAfterMs })
  }
  if (status === 408) return timedOut()
  if (status === 409 || status >= 500) return unavailable(retryAfterMs)
  // Some servers say with 400 what OpenAI says with 404.
  if ([401, 402, 403, 404].includes(status) || error.code === 'model_not_found') {
    return new ModelError('MODEL_REFUSED', `The model provider refused the key or the model (HTTP ${status}).`, {
      retryable: false,
    })
  }
  return new ModelError('MODEL_BAD_REQUEST', `The model provider rejected the request (HTTP ${status}).`, { retryable: false })
}

export function unavailable(retryAfterMs: number | null): ModelError {
  return new ModelError('MODEL_UNAVAILABLE', 'The model provider failed.', { retryable: true, retryAfterMs })
}

/** What the socket or the parser said: fetch and the client each wrap it. */
function rootCause(error: Error): Error {
  return error.cause instanceof Error ? rootCause(error.cause) : error
}

/**
 * How long `headers` ask to wait, in milliseconds, at most a day; null when they do not say. Reads `Retry-After` in both forms of
 * RFC 9110, section 10.2.3 (seconds, HTTP date), and OpenAI's `retry-after-ms`, which is finer.
 */
function parseRetryAfter(headers: Headers, now: number): number | null {
  const millis = Number.parseFloat(headers.get('retry-after-ms') ?? '')
  if (millis >= 0) return Math.min(millis, dayMs)
  const text = headers.get('retry-after')?.trim() ?? ''
  if (/^\d+(\.\d+)?$/.test(text)) return Math.min(Math.ceil(Number(text) * 1000), dayMs)
  const date = Date.parse(text)
  return Number.isNaN(date) ? null : Math.min(Math.max(date - now, 0), dayMs)
}
