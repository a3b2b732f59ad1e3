import { ValidationProblem } from '../domain/errors.ts'
import type { ResponseField } from '../domain/tool-definition.ts'

const mostFields = 20
const longestPath = 500

/** Names, indices and `[*]`, after `$`. */
const segment = /\.([A-Za-z_][\w-]*)|\['([^'\\\]]+)'\]|\[(\d{1,9})\]|(\[\*\])/g
const whole = new RegExp(`^\\$(?:${segment.source})*$`)

/** The fields, when they can be found in an answer; else throws a ValidationProblem at `path`. */
export function checkMapping(path: readonly string[], fields: readonly ResponseField[]): ResponseField[] {
  if (fields.length > mostFields) throw new ValidationProblem(path, `There must be at most ${mostFields} fields.`)
  if (!fields.every(({ name }) => /^[A-Za-z_]\w{0,63}$/.test(name)))
    throw new ValidationProblem(
      path,
      'The name of a field must be a letter or an underscore, and at most 63 more letters, digits and underscores.',
    )
  if (new Set(fields.map(({ name }) => name)).size < fields.length) throw new ValidationProblem(path, 'No field may occur twice.')
  if (!fields.every((field) => field.path.length <= longestPath && whole.test(field.path)))
    throw new ValidationProblem(path, "A path must be $, followed by .name, ['name'], [0] and [*] alone.")
  return fields.map((field) => ({ name: field.name, path: field.path }))
}

/**
 * What the fields' paths lead to, as JSON. Of JSONPath (RFC 9535) there is only what never finds more than there is, so that no mapping
 * makes a small answer large. A path with `[*]` finds a list; any other finds one value, or null.
 */
export function mapResponse(fields: readonly ResponseField[], json: unknown): string {
  const found = fields.map(({ name, path }) => {
    const values = valuesAt(path, json)
    return [name, path.includes('[*]') ? values : (values[0] ?? null)] as const
  })
  return JSON.stringify(Object.fromEntries(found))
}

function valuesAt(path: string, json: unknown): unknown[] {
  return [...path.matchAll(segment)].reduce<unknown[]>(
    (values, [, name, quoted, index, all]) =>
      values.flatMap((value) => {
        if (typeof value !== 'object' || value === null) return []
        if (all !== undefined) return Object.values(value)
        const key = name ?? quoted ?? index ?? ''
        return Array.isArray(value) === (index !== undefined) && Object.hasOwn(value, key)
          ? [(value as Record<string, unknown>)[key]]
          : []
      }),
    [json],
  )
}
