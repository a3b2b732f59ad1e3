import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'

/** What is held back until the turn of the event loop is over. */
const corked = new Set<Duplex>()

/** Messages of one turn of the event loop go out together: to each socket in one write, and to one after the other. */
function cork(stream: Duplex): void {
  if (corked.has(stream)) return
  if (corked.size === 0) process.nextTick(uncorkAll)
  corked.add(stream)
  stream.cork()
}

function uncorkAll(): void {
  for (const stream of corked) stream.uncork()
  corked.clear()
}

/** Texts that many are sent, encoded once, by the results that they are of. */
const encoded = new WeakMap<object, Buffer>()

const brace = '}'.charCodeAt(0)

/** Sends a socket's messages. */
export class SocketWriter {
  readonly #socket: WebSocket
  readonly #stream: Duplex
  readonly #onTaken: () => void
  readonly #written: (error: Error | null | undefined) => void
  /** Resolves when the stream has room again; null while it has. */
  #room: Promise<void> | null = null

  /**
   * `stream` is what the socket writes to, uncompressed. `onTaken` is called for each message that the client's kernel may have by
   * now.
   */
  constructor(socket: WebSocket, stream: Duplex, onTaken: () => void) {
    this.#socket = socket
    this.#stream = stream
    this.#onTaken = onTaken
    this.#written = (error) => this.#taken(error)
  }

  /**
   * Resolves once the kernel has taken the message. Whoever waits for it before they make the next one hold up nobody but
   * themselves when the reader is slow, and nothing piles up here. To a socket that is closing it never resolves: its
   * subscriptions are ended when it has closed, and must not run on until then.
   */
  send(message: string): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.readyState !== this.#socket.OPEN) return
      cork(this.#stream)
      this.#socket.send(message, (error) => this.#taken(error, resolve))
    })
  }

  /**
   * Sends `head`, which opens an object and ends with a field's name, then `json` as that field's value, and closes the object. `json` is
   * the text of `result`, which many are sent. What it answers, if anything, is to be awaited before more is sent: the reader is slow, and
   * as much waits for it here as a stream lets wait. To a socket that is closing it never resolves, as with `send`.
   */
  sendShared(head: Buffer, result: object, json: string): Promise<void> | null {
    // One of its own: whoever waits for it is forgotten with it.
    if (this.#socket.readyState !== this.#socket.OPEN) return new Promise(() => undefined)
    let body = encoded.get(result)
    if (!body) {
      body = Buffer.from(json)
      encoded.set(result, body)
    }
    cork(this.#stream)
    if (this.#stream.write(frame(head, body), this.#written)) return null
    this.#room ??= new Promise((resolve) =>
      this.#stream.once('drain', () => {
        this.#room = null
        resolve()
      }),
    )
    return this.#room
  }

  #taken(error: Error | null | undefined, resolve?: () => void): void {
    if (error) return
    this.#onTaken()
    resolve?.()
  }
}

/** A text message in one unmasked frame (RFC 6455, 5.2): `head`, `body`, and the brace that closes it. */
function frame(head: Buffer, body: Buffer): Buffer {
  const length = head.length + body.length + 1
  const start = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const bytes = Buffer.allocUnsafe(start + length)
  bytes[0] = 0x81
  if (start === 2) bytes[1] = length
  else if (start === 4) {
    bytes[1] = 126
    bytes.writeUInt16BE(length, 2)
  } else {
    bytes[1] = 127
    bytes.writeBigUInt64BE(BigInt(length), 2)
  }
  bytes.set(head, start)
  bytes.set(body, start + head.length)
  bytes[start + length - 1] = brace
  return bytes
}
