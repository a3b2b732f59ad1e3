import { buffer } from 'node:stream/consumers'
import { Agent, type Dispatcher, request } from 'undici'
import { Arrivals } from './arrivals.ts'
import { brokenStream, timedOut } from './model-failure.ts'

/** Sends a request, and follows no redirect. Rejects when there is no answer, or as the signal says. */
export type Send = (
  url: string,
  options: Pick<Dispatcher.RequestOptions, 'method' | 'headers' | 'body' | 'signal'>,
) => Promise<Dispatcher.ResponseData>

export type UpstreamLimits = {
  /** The longest silence before the first token: connecting, queueing and hidden reasoning. Default 120,000 ms. */
  firstTokenMs: number
  /** The longest silence after it, between two bytes; comments that keep the connection alive count. Default 30,000 ms. */
  idleMs: number
  /** The whole call. Default 600,000 ms. */
  totalMs: number
}

export const defaultLimits: UpstreamLimits = { firstTokenMs: 120_000, idleMs: 30_000, totalMs: 600_000 }

/** Why a call that is over is aborted: whatever is left of it. Made once, since an error records where it was made. */
const over = new Error('The model call is over.')

/** How long the end of an answer is waited for after all is said, in milliseconds. */
const longestEnd = 1_000

/**
 * How long is waited is up to the watch. What a provider is asked on is kept for the next call. Nothing is read ahead: what nobody asks for
 * stays in the kernel, and is read from there in one piece.
 */
const highWaterMark = 1
const connect = { highWaterMark, allowH2: false }
const ownConnections = new Agent({ headersTimeout: 0, bodyTimeout: 0, allowH2: false, connect })

/** To where the operator says. */
export const sendToProvider: Send = (url, options) => request(url, { ...options, highWaterMark, dispatcher: ownConnections })

/**
 * Sends nothing before `ready` has resolved, and never when it rejects. Until then a connection is found or made: the body is asked for when there is one, and
 * undici sends the headers with its first piece.
 */
export function sendWhen(ready: Promise<void>, send: Send): Send {
  // Perhaps before anybody asks.
  ready.catch(() => undefined)
  return (url, { headers, body, ...options }) => {
    const bytes = Buffer.from(body as string)
    async function* whenReady() {
      await ready
      yield bytes
    }
    const sized = new Headers(headers as Headers)
    sized.set('content-length', String(bytes.byteLength))
    // undici takes any iterable, and its types do not say so.
    return send(url, { ...options, headers: sized, body: whenReady() as unknown as Buffer })
  }
}

/** One call's time, size and cancellation. */
type UpstreamWatch = {
  /** For one request. The body of a successful answer is to be taken from `read`. */
  fetch: typeof fetch
  /**
   * The bytes of the successful answer as they arrive. What comes until `beat`, where that answers a promise, comes in one piece: each costs
   * something, whatever is in it.
   */
  read(beat: () => Promise<void> | null): AsyncIterable<Uint8Array>
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
export function watchUpstream(limits: UpstreamLimits, maxBytes: number, caller: AbortSignal, send: Send): UpstreamWatch {
  const controller = new AbortController()
  const abortLikeCaller = () => abort(caller.reason)
  caller.addEventListener('abort', abortLikeCaller, { once: true })
  const deadline = setTimeout(() => abort(timedOut()), limits.totalMs)
  let silenceMs = limits.firstTokenMs
  /** Since when the upstream is waited for, in milliseconds of the process; null while it is not. */
  let waitingSince: number | null = null
  let silence = setTimeout(listen, silenceMs)
  let arrivals: Arrivals | undefined
  let bytes = 0

  /** Once what has come is read: the provider charges for it. */
  async function abort(reason: unknown): Promise<void> {
    await arrivals?.catchUp()
    controller.abort(reason)
  }

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

  async function* read(beat: () => Promise<void> | null): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      const untilBeat = beat()
      if (untilBeat) await arrivals?.gather(untilBeat)
      const arrived = await (arrivals && noLongerThanSilence(arrivals.take()))
      if (!arrived) return
      bytes += arrived.byteLength
      if (bytes > maxBytes) {
        controller.abort(brokenStream())
        controller.signal.throwIfAborted()
      }
      yield arrived
    }
  }

  async function letEnd(): Promise<void> {
    const late = setTimeout(() => controller.abort(over), longestEnd).unref()
    try {
      while (arrivals && (await arrivals.take()));
    } catch {
      // It broke, and is gone as well.
    } finally {
      clearTimeout(late)
    }
  }

  return {
    signal: controller.signal,
    async fetch(input, init) {
      const { statusCode, headers, body } = await noLongerThanSilence(
        send(String(input), {
          method: 'POST',
          headers: init?.headers as Headers,
          body: init?.body as string,
          signal: controller.signal,
        }),
      )
      arrivals = new Arrivals(body)
      const answered = { status: statusCode, headers: headersFrom(headers) }
      if (statusCode >= 200 && statusCode < 300) return new Response(null, answered)
      // A key follows no redirect.
      if (statusCode < 400) throw new Error('It redirects.')
      // The client reads it whole, to tell what went wrong.
      const told = await buffer(read(() => null))
      return new Response(told.length === 0 ? null : told, answered)
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

function headersFrom(said: Dispatcher.ResponseData['headers']): Headers {
  const headers = new Headers()
  for (const [name, value] of Object.entries(said)) for (const each of [value ?? []].flat()) headers.append(name, each)
  return headers
}
