import type { Socket } from 'node:net'
import type pg from 'pg'

/** What pg's client has and its types leave out. */
type Connected = pg.ClientBase & { connection: { stream: Socket }; readyForQuery: boolean }

/**
 * Breaks the connection, which must be open, when its server owes an answer and is silent for so many milliseconds: it is frozen, or
 * was lost with its machine or the network, of which TCP alone would tell after a quarter of an hour. What waits fails as when a
 * connection breaks. A server that works on a statement is silent too, so the bound must be longer than a statement may take; 0 is none.
 */
export function breakWhenSilent(client: pg.ClientBase, millis: number): void {
  const { connection } = client as Connected
  connection.stream.setTimeout(millis)
  connection.stream.on('timeout', () => {
    const { bytesRead } = connection.stream
    // This process may have been the one that was held up: what came meanwhile is read before the next check.
    setImmediate(() => {
      const isSilent = !(client as Connected).readyForQuery && connection.stream.bytesRead === bytesRead
      if (isSilent) connection.stream.destroy()
    })
  })
}
