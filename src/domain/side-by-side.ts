import { setTimeout as delay } from 'node:timers/promises'

/** How long one who is late holds up the others, in milliseconds. */
const patience = 300

/**
 * The same work for many, again and again, where one may take for ever: whose database is silent, say. What was begun for one and is
 * not over is not begun again, and no one else waits for it.
 */
export class SideBySide<Key> {
  readonly #underWay = new Set<Key>()

  /**
   * Begins `work` for everyone for whom none is under way. Resolves when all of it is done, or 300 ms have passed; throws the first
   * failure until then.
   */
  async each<Item>(items: Iterable<[Key, Item]>, work: (key: Key, item: Item) => Promise<void>): Promise<void> {
    const idle = [...items].filter(([key]) => !this.#underWay.has(key))
    const begun = idle.map(async ([key, item]) => {
      this.#underWay.add(key)
      try {
        await work(key, item)
      } finally {
        this.#underWay.delete(key)
      }
    })
    const outcomes = await Promise.race([Promise.allSettled(begun), delay(patience, [], { ref: false })])
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
  }
}
