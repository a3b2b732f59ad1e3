import { ValidationProblem } from '../domain/errors.ts'

/** Where one argument goes. */
type Variable = { name: string; place: 'path' | 'query' }

/** A URL with `{name}` in segments of its path and in values of its query, as simple expansion (RFC 6570) has them. */
export type UrlTemplate = {
  variables: readonly Variable[]
  /** Host and scheme are fixed: no argument reaches them. */
  host: string
  /** The URL with the arguments in it. Arguments that it has no place for are left to the caller. Throws, for the model to read. */
  expand(args: Readonly<Record<string, unknown>>): URL
}

const longest = 2_000
const variable = /\{([A-Za-z_][A-Za-z0-9_-]{0,63})\}/g
const shape = /^(https?:\/\/[^/?#{}\s]+)(\/[^?#\s]*)?(?:\?([^#\s]*))?$/

/** Reads a template; throws a ValidationProblem at `path` when it is none. */
export function parseUrlTemplate(path: readonly string[], template: string): UrlTemplate {
  const refuse = (message: string) => new ValidationProblem(path, message)
  const [, origin, segments = '/', query = ''] = shape.exec(template) ?? []
  if (template.length > longest) throw refuse(`The URL must have at most ${longest.toLocaleString('en')} characters.`)
  if (origin === undefined || !URL.canParse(template.replace(variable, 'x')))
    throw refuse('It must be a URL without a fragment, whose scheme, host and port have no arguments in them.')
  const pairs = query === '' ? [] : query.split('&').map((pair) => pair.split(/=(.*)/s, 2) as [string, string?])
  if (pairs.some(([name]) => /[{}]/.test(name))) throw refuse('Only values of the query can have arguments in them, not names.')
  if (/[{}]/.test(`${segments}${query}`.replace(variable, ''))) throw refuse('Braces are for arguments, as in {name}.')
  const variables = [...namesIn(segments, 'path'), ...pairs.flatMap(([, value = '']) => namesIn(value, 'query'))]

  return {
    variables,
    host: new URL(origin).hostname,
    expand(args) {
      const url = new URL(origin)
      url.pathname = segments
        .split('/')
        .map((segment) => expandSegment(segment, args))
        .join('/')
      // What nobody asked for is left out, with its name.
      const asked = pairs.filter(([, value = '']) => namesIn(value, 'query').every(({ name }) => args[name] != null))
      url.search = asked.map(([name, value]) => (value === undefined ? name : `${name}=${fill(value, args)}`)).join('&')
      return url
    },
  }
}

function namesIn(text: string, place: Variable['place']): Variable[] {
  return [...text.matchAll(variable)].map(([, name = '']) => ({ name, place }))
}

function expandSegment(segment: string, args: Readonly<Record<string, unknown>>): string {
  const filled = fill(segment, args)
  // An argument must not lead to another path. URLs take dots for steps, encoded ones as well.
  if (filled !== segment && /^(?:\.|%2e){0,2}$/i.test(filled))
    throw new Error('An argument of the path must be neither empty nor dots alone.')
  return filled
}

function fill(text: string, args: Readonly<Record<string, unknown>>): string {
  return text.replace(variable, (_variable, name: string) => encodeURIComponent(textOf(name, args[name])))
}

function textOf(name: string, value: unknown): string {
  if (typeof value === 'string' && value.isWellFormed()) return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  throw new Error(`The argument ${name} must be text, a number or a boolean.`)
}
