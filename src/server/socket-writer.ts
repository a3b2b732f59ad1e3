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

/** Sends a socket's messages. */
export class SocketWriter {
  readonly #socket: WebSocket
  readonly #stream: Duplex
  readonly #onTaken: () => void

  /** `stream` is what the socket writes to. `onTaken` is called for each message that the client's kernel may have by now. */
  constructor(socket: WebSocket, stream: Duplex, onTaken: () => void) {
    this.#socket = socket
    this.#stream = stream
    this.#onTaken = onTaken
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
      this.#socket.send(message, (error) => {
        if (error) return
        this.#onTaken()
        resolve()
      })
    })
  }
}
