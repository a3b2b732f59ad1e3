import type { Socket } from 'node:net'
import type pg from 'pg'

/** What pg's client has and its types leave out. */
type Connected = pg.ClientBase & { connection: { stream: Socket }; readyForQuery: boolean }

/** Breaks connections to one server that it has let down: it is frozen, or was lost with its machine or the network. */
export class SilenceWatch {
  readonly #connections = new Set<Connected>()

  /**
   * Breaks the connection, which must be open, when its server owes an answer and is silent for so many milliseconds, of which TCP
   * alone would tell after a quarter of an hour. What waits fails as when a connection breaks. A server that works on a statement is
   * silent too, so the bound must be longer than a statement may take; 0 is none.
   */
  over(client: pg.ClientBase, millis: number): void {
    const connected = client as Connected
    const { stream } = connected.connection
    this.#connections.add(connected)
    const every = Math.min(500, millis / 4)
    let heard = stream.bytesRead
    let silentChecks = 0
    const owesNothing = () => connected.readyForQuery || stream.bytesRead !== heard
    // The stream's own timeout would begin anew with every statement that is sent after the one that is not answered. Checks are counted,
    // not time: a process that is held up itself checks once afterwards, and what it has just asked for is not late.
    const check = () => {
      if (owesNothing()) {
        heard = stream.bytesRead
        silentChecks = 0
        return
      }
      silentChecks += 1
      // The first may have come right after the question. What came with the last is read before it counts.
      if ((silentChecks - 1) * every >= millis) setImmediate(() => owesNothing() || this.#giveUp(connected))
    }
    const timer = millis === 0 ? undefined : setInterval(check, every).unref()
    stream.once('close', () => {
      clearInterval(timer)
      this.#connections.delete(connected)
    })
  }

  /** Those that nobody uses were most likely lost with it: whoever took one next would wait as long again. So they go first. */
  #giveUp(silent: Connected): void {
    for (const each of this.#connections) {
      if (each.readyForQuery && each.getTransactionStatus() === 'I') each.connection.stream.destroy()
    }
    setImmediate(() => silent.connection.stream.destroy())
  }
}
