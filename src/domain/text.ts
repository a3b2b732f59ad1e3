import type { Prisma } from '../data/generated/client.ts'
import { ValidationProblem } from './errors.ts'

export type TextRules = {
  /** Fewest characters that are no white space. Default 1. */
  min?: number
  /** Most bytes in UTF-8. */
  max: number
  /** Whether tabs and line breaks may occur. Default false. */
  multiline?: boolean
}

// Control characters (Unicode category Cc) but for tab, line feed and carriage return; and those three as well.
const controls = { multiline: /[^\P{Cc}\t\n\r]/u, line: /\p{Cc}/u }

/**
 * `text` as it is, when it may be stored and shown; else throws a ValidationProblem at `field`, the name or
 * the path of it. Refused are control characters
 * (Postgres cannot store NUL), surrogates without their other half (they are not UTF-8), and text that is blank or too long.
 */
export function cleanText(
  field: string | readonly string[],
  text: string,
  { min = 1, max, multiline = false }: TextRules,
): string {
  const path = [field].flat()
  // A string has at least one byte for each of its units, so this bounds the work below, too.
  if (text.length > max || Buffer.byteLength(text) > max) {
    throw new ValidationProblem(path, `The text must have at most ${max.toLocaleString('en')} bytes.`)
  }
  if (!text.isWellFormed()) throw new ValidationProblem(path, 'The text must be valid Unicode.')
  if ((multiline ? controls.multiline : controls.line).test(text)) {
    throw new ValidationProblem(path, 'The text must not contain control characters.')
  }
  if (text.replace(/\s+/g, '').length < min) throw new ValidationProblem(path, 'The text must not be empty.')
  return text
}

/** JSON as Prisma stores it. */
export type JsonObject = Prisma.InputJsonObject

/** Levels of nesting in JSON that comes from outside. */
const deepest = 16

/** `value` when it may be stored as JSON: text as above, nested at most 16 levels, at most `max` bytes; else a ValidationProblem. */
export function cleanJson(path: string, value: Record<string, unknown>, { max }: { max: number }): JsonObject {
  checkJson(path, value, max, deepest)
  if (Buffer.byteLength(JSON.stringify(value)) > max) {
    throw new ValidationProblem([path], `The JSON must have at most ${max.toLocaleString('en')} bytes.`)
  }
  return value as JsonObject
}

function checkJson(path: string, value: unknown, max: number, levels: number): void {
  if (typeof value === 'string') cleanText(path, value, { min: 0, max, multiline: true })
  if (typeof value !== 'object' || value === null) return
  if (levels === 0) throw new ValidationProblem([path], `The JSON must not be nested deeper than ${deepest} levels.`)
  for (const [field, inner] of Object.entries(value)) {
    cleanText(path, field, { min: 0, max })
    checkJson(path, inner, max, levels - 1)
  }
}
