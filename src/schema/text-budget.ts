import { createContextCache } from '@pothos/core'
import { ValidationProblem } from '../domain/errors.ts'
import type { Context } from './context.ts'

/** Text of messages and prompts that one operation may carry, in UTF-16 units: more than the largest page of the longest messages holds. */
const mostText = 16_000_000

/** Pages of messages that one operation loads at a time. */
const lanes = 4

/**
 * Bounds the message text of one operation, since a query of some hundred bytes can ask for gigabytes: every answer is built in
 * memory, and while it is nobody else is served.
 */
class TextBudget {
  #spent = 0
  #next = 0
  readonly #lanes: Promise<unknown>[] = Array.from({ length: lanes }, () => Promise.resolve())

  /** The text, if there is room for it. Throws a ValidationProblem when there is not. */
  spend(text: string): string {
    this.#spent += text.length
    this.#requireRoom()
    return text
  }

  /** Loads a page when its turn comes: pages that load side by side would all be in memory before any is counted. */
  load<T>(page: () => Promise<T>): Promise<T> {
    const lane = this.#next++ % lanes
    const loaded = (this.#lanes[lane] ?? Promise.resolve()).then(() => {
      this.#requireRoom()
      return page()
    })
    this.#lanes[lane] = loaded.catch(() => undefined)
    return loaded
  }

  #requireRoom(): void {
    if (this.#spent <= mostText) return
    throw new ValidationProblem(['first'], 'The answer would be too long. Ask for fewer messages at a time.')
  }
}

/** The budget of the operation at hand. */
export const textBudget: (context: Context) => TextBudget = createContextCache(() => new TextBudget())
