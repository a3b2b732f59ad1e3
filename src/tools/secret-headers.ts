import { ValidationProblem } from '../domain/errors.ts'
import type { RevealSecrets } from '../domain/ports.ts'
import type { ToolHeader } from '../domain/tool-definition.ts'
import { maySetHeader } from './egress.ts'
import { redactor } from './redaction.ts'

/** Headers to send, and how to take what they hold out of what comes back. */
export type FilledHeaders = { headers: Record<string, string>; redact: (text: string) => string }

const mostHeaders = 20

/** Characters of a value, before and after secrets are put in: what servers take of one header. */
const longestValue = 4_000

/** A secret of fewer characters would be found in any text. */
const shortestSecret = 8

const placeholder = /\{\{secret:([A-Za-z][A-Za-z0-9_.-]{0,99})\}\}/g

/** What RFC 9110 allows of a name, and of values what every server takes: visible ASCII characters and spaces within. */
const namePattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$/
const valuePattern = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/

/** The headers, when they can be sent; else throws a ValidationProblem at `path`. `own` are those, in lower case, that the tool says itself. */
export function checkHeaders(path: readonly string[], headers: readonly ToolHeader[], own: ReadonlySet<string>): ToolHeader[] {
  const refuse = (message: string) => new ValidationProblem(path, message)
  if (headers.length > mostHeaders) throw refuse(`There must be at most ${mostHeaders} headers.`)
  const names = headers.map(({ name }) => name.toLowerCase())
  if (!names.every((name) => namePattern.test(name)))
    throw refuse('The name of a header must be a token of at most 100 characters.')
  if (new Set(names).size < names.length) throw refuse('No header may occur twice.')
  const taken = names.find((name) => own.has(name) || !maySetHeader(name))
  if (taken !== undefined) throw refuse(`The header ${taken} cannot be set.`)
  for (const { value } of headers) {
    if (value.length > longestValue || !valuePattern.test(value))
      throw refuse(
        `The value of a header must be 1 to ${longestValue.toLocaleString('en')} visible ASCII characters, with spaces only within.`,
      )
    if (/\{\{|\}\}/.test(value.replace(placeholder, ''))) throw refuse('Braces are for secrets, as in {{secret:name}}.')
  }
  return headers.map(({ name, value }) => ({ name, value }))
}

/**
 * The headers with the secrets in them. What is wrong with a secret is thrown for the model to read, so it names none. `redact` takes out
 * every secret that was put in.
 */
export async function fillHeaders(headers: readonly ToolHeader[], reveal: RevealSecrets): Promise<FilledHeaders> {
  const names = new Set(headers.flatMap(({ value }) => [...value.matchAll(placeholder)].map(([, name = '']) => name)))
  const secrets = names.size === 0 ? new Map<string, string>() : await reveal([...names])
  const secretOf = (name: string) => {
    const secret = secrets.get(name)
    if (secret === undefined) throw new Error('The tool is not set up: a secret that it needs is missing.')
    if (secret.length < shortestSecret || !valuePattern.test(secret))
      throw new Error(`The tool is not set up: a secret that it needs is not ${shortestSecret} or more visible ASCII characters.`)
    return secret
  }
  const filled = headers.map(({ name, value }) => {
    const whole = value.replace(placeholder, (_placeholder, secret: string) => secretOf(secret))
    if (whole.length > longestValue) throw new Error('The tool is not set up: a secret is too long for a header.')
    return [name.toLowerCase(), whole] as const
  })
  return { headers: Object.fromEntries(filled), redact: redactor([...names].map(secretOf)) }
}
