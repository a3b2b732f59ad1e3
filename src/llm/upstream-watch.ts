import { buffer } from 'node:stream/consumers'
import { brokenStream, timedOut } from './model-failure.ts'

export type UpstreamLimits = {
  /** The longest silence before the first token: connecting, queueing and hidden reasoning. Default 120,000 ms. */
  firstTokenMs: number
  /** The longest silence after it, between two bytes; comments that keep the connection alive count. Default 30,000 ms. */
  idleMs: number
  /** The whole call. Default 600,000 ms. */
  totalMs: number
}

/** `fetch` itself gives up after 300,000 ms of silence, so higher silence limits have no effect. */
export const defaultLimits: UpstreamLimits = { firstTokenMs: 120_000, idleMs: 30_000, totalMs: 600_000 }

/** Why a call that is over is aborted: whatever is left of it. Made once, since an error records where it was made. */
const over = new Error('The model call is over.')

/** One call's time, size and cancellation. */
type UpstreamWatch = {
  /** The body of a successful answer is to be taken from `read`. */
  fetch: typeof fetch
  /** The bytes of an answer as they arrive. */
  read(answer: Response): AsyncIterable<Uint8Array>
  /** Aborts with the caller's reason, or with the ModelError of the limit that was passed. */
  signal: AbortSignal
  /** From now on the shorter silence limit holds. */
  tokenArrived(): void
  /** Ends the watch and drops the connection if it is still open. */
  close(): void
}

/**
 * Watches one call that is made by `send`. The client's own timeout ends with the headers, so this wraps it: silence is measured only while
 * waiting for the upstream (a slow reader is not the upstream's fault), the total always, and at most `maxBytes` are read.
 */
export function watchUpstream(limits: UpstreamLimits, maxBytes: number, caller: AbortSignal, send: typeof fetch): UpstreamWatch {
  const controller = new AbortController()
  const abortLikeCaller = () => controller.abort(caller.reason)
  caller.addEventListener('abort', abortLikeCaller, { once: true })
  const deadline = setTimeout(() => controller.abort(timedOut()), limits.totalMs)
  let silenceMs = limits.firstTokenMs
  let bytes = 0

  async function noLongerThanSilence<T>(answer: Promise<T>): Promise<T> {
    const silence = setTimeout(() => controller.abort(timedOut()), silenceMs)
    try {
      return await answer
    } finally {
      clearTimeout(silence)
    }
  }

  async function* read({ body }: Response): AsyncGenerator<Uint8Array, void> {
    const reader = body?.getReader()
    for (;;) {
      const chunk = await (reader && noLongerThanSilence(reader.read()))
      if (!chunk || chunk.done) return
      bytes += chunk.value.byteLength
      if (bytes > maxBytes) {
        controller.abort(brokenStream())
        controller.signal.throwIfAborted()
      }
      yield chunk.value
    }
  }

  return {
    signal: controller.signal,
    async fetch(input, init) {
      // A key follows no redirect.
      const response = await noLongerThanSilence(send(input, { ...init, redirect: 'error' }))
      if (response.ok) return response
      // The client reads it whole, to tell what went wrong.
      const body = await buffer(read(response))
      const { status, statusText, headers } = response
      return new Response(body.length === 0 ? null : body, { status, statusText, headers })
    },
    read,
    tokenArrived() {
      silenceMs = limits.idleMs
    },
    close() {
      clearTimeout(deadline)
      caller.removeEventListener('abort', abortLikeCaller)
      controller.abort(over)
    },
  }
}
