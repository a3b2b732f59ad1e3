import pg from 'pg'

/** What connections held when they came back from a statement or a transaction. */
export type CheckIns = {
  /** How many answered. */
  count: number
  /** What was wrong with those that held a setting, or could not say. */
  dirty: string[]
  /** Waits for the last answers and looks no further. */
  stop(): Promise<void>
}

const question = `select coalesce(current_setting('app.current_tenant', true), '') as tenant,
                         coalesce(current_setting('app.current_user', true), '') as user`

/**
 * Asks each connection of `pool` for the settings whenever it is checked in, in a statement of its own without a scope: on an
 * exclusive connection as it is released, ahead of whoever gets it next; on a shared one right behind every statement, before
 * the next of the pipeline. One pool at a time, since shared connections are known by their being pipelined.
 */
export function watchCheckIns(pool: pg.Pool): CheckIns {
  const asked = new Set<Promise<void>>()
  const ask = (client: pg.ClientBase) => {
    const answer = client.query(question).then(
      ({ rows: [{ tenant, user }] }) => {
        checkIns.count++
        if (tenant !== '' || user !== '') checkIns.dirty.push(`tenant ${tenant}, user ${user}`)
      },
      (error) => {
        // Of a broken connection nothing is used again.
        if (error instanceof pg.DatabaseError && error.severity !== 'FATAL') checkIns.dirty.push(error.message)
      },
    )
    asked.add(answer)
    answer.finally(() => asked.delete(answer))
  }

  // A question to an exclusive connection can be followed by a statement before it was answered. pg queues that, and warns.
  const { noDeprecation = false } = process
  process.noDeprecation = true
  const onRelease = (error: unknown, client: pg.PoolClient) => error || ask(client)
  pool.on('release', onRelease as (error: Error, client: pg.PoolClient) => void)
  const stopListening = onPipelinedStatement(ask)

  const checkIns: CheckIns = {
    count: 0,
    dirty: [],
    stop: async () => {
      pool.off('release', onRelease as (error: Error, client: pg.PoolClient) => void)
      stopListening()
      await Promise.all(asked)
      process.noDeprecation = noDeprecation
    },
  }
  return checkIns
}

/** Calls `listener` after each statement that was put on a pipelined connection and is no plain text. Returns how to end that. */
function onPipelinedStatement(listener: (client: pg.ClientBase) => void): () => void {
  const { query } = pg.Client.prototype
  function observed(this: pg.Client & { pipeline: boolean }, ...args: unknown[]) {
    const result = Reflect.apply(query, this, args)
    if (this.pipeline && typeof args[0] !== 'string') listener(this)
    return result
  }
  pg.Client.prototype.query = observed as typeof query
  return () => {
    pg.Client.prototype.query = query
  }
}
