import { setTimeout as delay } from 'node:timers/promises'
import { isOutage } from '../data/outage.ts'

/** Pauses between tries, in milliseconds: eight seconds in all, longer than a database takes to fail over to its replica. */
const pauses = [100, 300, 1_000, 2_000, 2_000, 3_000]

/**
 * Writes what must not be lost to an outage of the database: tries again while it cannot be reached. `write` may have been
 * committed before it failed, so doing it twice must be doing it once.
 */
export async function persist<T>(write: () => Promise<T>): Promise<T> {
  for (const pause of pauses) {
    try {
      return await write()
    } catch (error) {
      if (!isOutage(error)) throw error
      await delay(pause)
    }
  }
  return write()
}
