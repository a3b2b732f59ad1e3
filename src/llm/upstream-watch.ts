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

/** How long the end of an answer is waited for after all is said, in milliseconds. */
const longestEnd = 1_000

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
  /**
   * Ends the watch. Drops the connection, and the upstream stops, unless all is said: then only the end of the answer is to come, and the
   * connection is there for the next call, which saves it the handshakes.
   */
  close(isAllSaid: boolean): void
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
  /** Since when the upstream is waited for, in milliseconds of the process; null while it is not. */
  let waitingSince: number | null = null
  let silence = setTimeout(listen, silenceMs)
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  let bytes = 0

  /** Looks again when the silence that there is now would be too long: a timer for each piece costs as much as reading it. */
  function listen(): void {
    const silent = waitingSince === null ? 0 : performance.now() - waitingSince
    if (silent >= silenceMs) controller.abort(timedOut())
    else silence = setTimeout(listen, silenceMs - silent)
  }

  async function noLongerThanSilence<T>(answer: Promise<T>): Promise<T> {
    waitingSince = performance.now()
    const answered = await answer
    waitingSince = null
    return answered
  }

  async function* read({ body }: Response): AsyncGenerator<Uint8Array, void> {
    reader = body?.getReader()
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

  async function letEnd(): Promise<void> {
    const late = setTimeout(() => controller.abort(over), longestEnd).unref()
    try {
      while (reader && !(await reader.read()).done);
    } catch {
      // It broke, and is gone as well.
    } finally {
      clearTimeout(late)
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
      if (silenceMs === limits.idleMs) return
      silenceMs = limits.idleMs
      clearTimeout(silence)
      listen()
    },
    close(isAllSaid) {
      clearTimeout(deadline)
      clearTimeout(silence)
      caller.removeEventListener('abort', abortLikeCaller)
      if (isAllSaid) void letEnd()
      else controller.abort(over)
    },
  }
}
