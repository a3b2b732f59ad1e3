import { randomUUID } from 'node:crypto'
import type { ExecutionResult } from 'graphql'
import { type EventResult, SharedText, written } from './shared-results.ts'

type TextEvent = { type: 'TextDelta'; cursor: string; text: string }

type Execute = (event: unknown) => ExecutionResult | Promise<ExecutionResult>

/** Stand for what differs from one text to the next. Nobody else has written these. */
const marks = { cursor: randomUUID(), text: randomUUID() }
const places = new RegExp(`"(${marks.cursor}|${marks.text})"`)

/**
 * What one subscription makes of pieces of text, of which there are many: its document is executed once, for a text made of marks,
 * and what came of that is filled in for each. That is the same, since nothing of a TextDelta but its own two strings gets into
 * its result, and what a subscriber may see stays the same while the subscription lasts. All other events are executed.
 */
export class TextTemplate {
  readonly #execute: Execute
  /** Alternately what is always the same and the name of a mark; null when texts have to be executed. */
  #parts: string[] | null | undefined

  constructor(execute: Execute) {
    this.#execute = execute
  }

  resultOf(event: unknown): EventResult | Promise<EventResult> {
    if (!isText(event)) return this.#execute(event)
    if (this.#parts === undefined) this.#parts = this.#prepare()
    if (!this.#parts) return this.#execute(event)
    let json = ''
    for (const part of this.#parts) {
      if (part === marks.text) json += JSON.stringify(event.text)
      else if (part === marks.cursor) json += JSON.stringify(event.cursor)
      else json += part
    }
    return { [written]: new SharedText(json) }
  }

  #prepare(): string[] | null {
    const result = this.#execute({ type: 'TextDelta', ...marks } satisfies TextEvent)
    if (result instanceof Promise || result.errors) return null
    return JSON.stringify(result).split(places)
  }
}

function isText(event: unknown): event is TextEvent {
  return typeof event === 'object' && event !== null && 'type' in event && event.type === 'TextDelta'
}
