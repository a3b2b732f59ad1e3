/** A place in the filter's source where it adds a wall or refuses. */
export type Site = {
  kind: string
  /** The function or rule that it is in, its line, and what stands there. */
  name: string
  /** Whether it is the columns themselves that are added there. */
  columns: boolean
  /** The expression that names the model there; null where there is none. */
  model: string | null
  /** What to put around it so that it is skipped when `condition` holds. */
  skipped(condition: string): Insertion
  /** What to put around it so that `entered` is evaluated before, and `left(entered, result)` after, if it comes to that. */
  noted(entered: string): Insertion
}

/** Text to put before `start` and after `end`. */
export type Insertion = { start: number; end: number; before: string; after: string }

type Call = { start: number; end: number; text: string; parts: string[] }

/** Every place in the source of src/data/tenant-filter.ts that adds a wall, or refuses what cannot have one. */
export function sitesIn(source: string): Site[] {
  const functions = [...source.matchAll(/^function (\w+)\(([^)]*)\)/gm)].filter(
    ([, name = '', parameters = '']) => parameters.includes('wall: Wall') || name.startsWith('refuse'),
  )
  const local = source.matchAll(/^ {2}const (\w+) = \(\w+: .*=>/gm)
  const names = [...functions, ...local].map(([, name]) => name)
  const calls = source.matchAll(new RegExp(`(?<!function )\\b(${names.join('|')})\\(`, 'g'))
  return [
    ...[...calls].map(({ index, 1: callee = '' }) => callSite(source, callAt(source, index), callee)),
    ...[...source.matchAll(/(?<=^ {2}\w+: )restrict\w+(?=,$)/gm)].map((match) => ruleSite(source, match)),
    ...[...source.matchAll(/throw new UnscopedOperation\(/g)].map(({ index }) => refusalSite(source, callAt(source, index))),
  ]
}

/** The source with all of these in it. */
export function inserted(source: string, insertions: Insertion[]): string {
  const texts = insertions.flatMap(({ start, end, before, after }) => [
    { at: start, text: before },
    { at: end, text: after },
  ])
  let result = ''
  let from = 0
  for (const { at, text } of texts.toSorted((a, b) => a.at - b.at)) {
    result += source.slice(from, at) + text
    from = at
  }
  return result + source.slice(from)
}

function callSite(source: string, { start, end, text, parts }: Call, callee: string): Site {
  const [first = ''] = parts
  // A statement of its own that began with a parenthesis would belong to the line before.
  const open = callee.startsWith('refuse') ? 'void (' : '('
  const around = (before: string, after = ')') => ({ start, end, before: `${open}${before}`, after })
  return {
    kind: 'filter skipped',
    columns: callee === 'wallOf',
    name: nameAt(source, start, text),
    model:
      { model: 'model', relation: 'relation.model', 'relation.model': 'relation.model' }[first] ?? modelAround(source, start),
    skipped: (condition) => around(`${condition} ? ${withoutCall(callee, parts)} : `),
    noted: (entered) => around(`left(${entered}, `, '))'),
  }
}

/** What is there when a filter is not called: the arguments as they came. */
function withoutCall(callee: string, [first = '', second = '', third]: string[]): string {
  if (callee.startsWith('refuse')) return 'undefined'
  if (callee === 'wallOf') return '{}'
  return third === undefined ? first : `(${second} ?? {})`
}

/** An operation whose rule is a filter by its name. */
function ruleSite(source: string, { index: start, 0: rule }: RegExpExecArray): Site {
  const around = (before: string, after = '(model, args, wall))') => {
    return { start, end: start + rule.length, before: `(model, args, wall) => (${before}`, after }
  }
  return {
    kind: 'operation unfiltered',
    columns: false,
    name: nameAt(source, start, rule),
    model: 'model',
    skipped: (condition) => around(`${condition} ? args : `),
    noted: (entered) => around(`left(${entered}, `, '(model, args, wall)))'),
  }
}

function refusalSite(source: string, { start, end, text }: Call): Site {
  return {
    kind: 'refusal dropped',
    columns: false,
    name: nameAt(source, start, text.replace('throw new ', '')),
    model: modelAround(source, start),
    skipped: (condition) => ({ start, end, before: `if (!(${condition})) `, after: '' }),
    noted: (entered) => ({ start, end, before: `if (${entered}) `, after: '' }),
  }
}

function nameAt(source: string, start: number, text: string): string {
  const before = source.slice(0, start)
  const [, name = '', rule = ''] =
    [...before.matchAll(/^(?:export )?function (\w+)|^ {2}(\w+): (?:\(|restrict|$)/gm)].at(-1) ?? []
  return `${name || rule}, line ${before.split('\n').length}: ${text.trim().replaceAll(/\s+/g, ' ')}`
}

/** How the function around names the model: by its first parameter, itself or as the end of a relation. */
function modelAround(source: string, start: number): string | null {
  const parameter = [...source.slice(0, start).matchAll(/^(?:export )?function \w+\((\w+)/gm)].at(-1)?.[1]
  if (parameter === 'relation') return 'relation.model'
  return parameter === 'model' ? 'model' : null
}

const closes: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}', "'": "'", '`': '`' }

/** The call that starts here, with its arguments. */
function callAt(source: string, start: number): Call {
  const open = source.indexOf('(', start)
  const awaited: string[] = []
  const parts = ['']
  for (let at = open; at < source.length; at++) {
    const character = source[at] ?? ''
    const quoted = awaited.at(-1) === "'" || awaited.at(-1) === '`'
    if (character === awaited.at(-1)) awaited.pop()
    else if (!quoted && character in closes) awaited.push(closes[character] ?? '')
    if (awaited.length === 0) {
      const text = source.slice(start, at + 1)
      return { start, end: at + 1, text, parts: parts.map((part) => part.trim()).filter((part) => part !== '') }
    }
    if (at === open) continue
    if (character === ',' && awaited.length === 1) parts.push('')
    else parts[parts.length - 1] += character
  }
  throw new Error(`The call at character ${start} of the filter's source does not end.`)
}
