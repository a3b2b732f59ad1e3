import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import type { SharedText } from './shared-results.ts'

/** What is held back until the turn of the event loop is over: streams that protocol messages are written to, and frames. */
const corked = new Set<Duplex>()
const holding: SocketWriter[] = []

/** Messages of one turn of the event loop go out together: to each socket in one write, and to one after the other. */
function afterTurn(): void {
  if (corked.size === 0 && holding.length === 0) process.nextTick(releaseAll)
}

function releaseAll(): void {
  for (const writer of holding) writer.release()
  holding.length = 0
  for (const stream of corked) stream.uncork()
  corked.clear()
}

function cork(stream: Duplex): void {
  if (corked.has(stream)) return
  afterTurn()
  corked.add(stream)
  stream.cork()
}

const brace = '}'.charCodeAt(0)

const nothing = Buffer.alloc(0)

/** Bytes of one socket that are held back at most. */
const mostHeld = 65_536

/** Sends a socket's messages. */
export class SocketWriter {
  readonly #socket: WebSocket
  readonly #stream: Duplex
  readonly #onTaken: () => void
  readonly #written: (error: Error | null | undefined) => void
  /** Heads and bodies of the frames that are held back, in turns, and their bytes. */
  #held: Buffer[] = []
  #heldBytes = 0
  /** Resolves when the stream has room again; null while it has. */
  #room: Promise<void> | null = null

  /**
   * `stream` is what the socket writes to, uncompressed. `onTaken` is called whenever the client's kernel may have taken
   * more.
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
      this.release()
      cork(this.#stream)
      this.#socket.send(message, (error) => this.#taken(error, resolve))
    })
  }

  /**
   * Sends `head`, which opens an object and ends with a field's name, then `json` as that field's value, and closes the object. What it
   * answers, if anything, is to be awaited before more is sent: the reader is slow, and as much waits for it here as a stream lets wait. To
   * a socket that is closing it never resolves, as with `send`.
   */
  sendShared(head: Buffer, { bytes: body }: SharedText): Promise<void> | null {
    // One of its own: whoever waits for it is forgotten with it.
    if (this.#socket.readyState !== this.#socket.OPEN) return new Promise(() => undefined)
    if (this.#held.length === 0) {
      afterTurn()
      holding.push(this)
    }
    this.#held.push(head, body)
    this.#heldBytes += head.length + body.length
    if (this.#heldBytes > mostHeld) this.release()
    if (!this.#stream.writableNeedDrain) return null
    this.#room ??= new Promise((resolve) =>
      this.#stream.once('drain', () => {
        this.#room = null
        resolve()
      }),
    )
    return this.#room
  }

  /** Writes what is held back, in one piece, which costs less than the stream's own corking of many. */
  release(): void {
    const held = this.#held
    if (held.length === 0) return
    this.#held = []
    this.#heldBytes = 0
    // After the frame that closes it nothing may follow.
    if (this.#socket.readyState === this.#socket.OPEN) this.#write(framesOf(held))
  }

  /** The kernel takes most of what is written at once. To be told so by a callback would take a tick for each write. */
  #write(bytes: Buffer): void {
    if (this.#stream.writableLength > 0) return void this.#stream.write(bytes, this.#written)
    this.#stream.write(bytes)
    if (this.#stream.writableLength === 0) this.#onTaken()
    else this.#stream.write(nothing, this.#written)
  }

  #taken(error: Error | null | undefined, resolve?: () => void): void {
    if (error) return
    this.#onTaken()
    resolve?.()
  }
}

/** Text messages, each in one unmasked frame (RFC 6455, 5.2): of `parts`, a head, a body, and the brace that closes it. */
function framesOf(parts: readonly Buffer[]): Buffer {
  let size = 0
  for (let part = 0; part < parts.length; part += 2) {
    const length = lengthAt(parts, part)
    size += prefixOf(length) + length
  }
  const bytes = Buffer.allocUnsafe(size)
  let at = 0
  for (let part = 0; part < parts.length; part += 2) {
    const length = lengthAt(parts, part)
    const prefix = prefixOf(length)
    bytes[at] = 0x81
    if (prefix === 2) bytes[at + 1] = length
    else if (prefix === 4) {
      bytes[at + 1] = 126
      bytes.writeUInt16BE(length, at + 2)
    } else {
      bytes[at + 1] = 127
      bytes.writeBigUInt64BE(BigInt(length), at + 2)
    }
    const [head, body] = [parts[part] as Buffer, parts[part + 1] as Buffer]
    bytes.set(head, at + prefix)
    bytes.set(body, at + prefix + head.length)
    at += prefix + length
    bytes[at - 1] = brace
  }
  return bytes
}

function lengthAt(parts: readonly Buffer[], part: number): number {
  return (parts[part] as Buffer).length + (parts[part + 1] as Buffer).length + 1
}

function prefixOf(length: number): number {
  return length < 126 ? 2 : length < 65_536 ? 4 : 10
}
