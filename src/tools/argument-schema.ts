import { Ajv2020 } from 'ajv/dist/2020.js'
import { RE2JS } from 're2js'

/** What is wrong with arguments, in words that the model can act on; null when nothing is. */
export type CheckArguments = (args: unknown) => string | null

/** Most bytes of a schema. */
export const mostSchemaBytes = 32_768

/** Levels that a schema nests, and parts that it has when every reference is written out. */
const deepest = 20
const mostParts = 2_000

/** Most characters of arguments as JSON: to find that no two of a list are equal takes time in proportion to the square. */
const mostArguments = 32_768

/** Longest pattern, in characters, and most instructions of all patterns of a schema: what matching them takes is in proportion. */
const longestPattern = 500
const mostInstructions = 20_000

/** What would make a schema mean something outside itself, or depend on where it is used. */
const foreign = ['$id', '$anchor', '$dynamicRef', '$dynamicAnchor', '$recursiveRef', '$recursiveAnchor'] as const

class SchemaRefused extends Error {}

/**
 * Why a JSON Schema (2020-12) is not taken, in a sentence; null when it can be compiled. Other people's schemas are compiled in a process
 * that everybody shares: so they are small, refer to nothing but their own definitions, never in a circle, and their patterns are those
 * that RE2 matches in linear time. With `lenient`, keywords that the standard does not have are passed over.
 */
export function refusalOfSchema(schema: Record<string, unknown>, { lenient = false } = {}): string | null {
  try {
    measure(schema)
    if (!(meta.validateSchema(withoutDialect(schema)) as boolean))
      return `The JSON Schema is not valid: ${meta.errorsText(meta.errors, { dataVar: 'schema' })}.`
    compile(schema, !lenient)
    return null
  } catch (error) {
    if (error instanceof SchemaRefused) return error.message
    return `The JSON Schema cannot be used: ${error instanceof Error ? error.message : String(error)}.`
  }
}

/** Checks arguments against a schema that nothing was found against. Compiled when it is first needed, and kept for the one tool alone. */
export function argumentsChecker(schema: Record<string, unknown>): CheckArguments {
  let validate: ReturnType<Ajv2020['compile']> | null = null
  return (args) => {
    if (JSON.stringify(args).length > mostArguments)
      return `The arguments have more than ${mostArguments.toLocaleString('en')} characters.`
    validate ??= compile(schema, false)
    if (validate(args)) return null
    const [first] = validate.errors ?? []
    const stray = first?.params['additionalProperty']
    const where = `arguments${first?.instancePath ?? ''}`
    return `${where} ${first?.message ?? 'is not valid'}${stray === undefined ? '' : `: ${String(stray)}`}`
  }
}

/** Formats only annotate, as the standard has it. Each schema has a compiler of its own, so that none knows of another. */
function compile(schema: Record<string, unknown>, strict: boolean) {
  const ajv = new Ajv2020({
    ...{ meta: false, validateSchema: false, addUsedSchema: false, validateFormats: false, logger: false },
    ...{ strictSchema: strict, strictNumbers: true, strictTypes: false, strictTuples: false, strictRequired: false },
    code: { regExp: linearPatterns() },
  })
  return ajv.compile(withoutDialect(schema))
}

/** Schemas that name an older draft, as many servers' do, are read by the newest: what tools take they say in words that did not change. */
function withoutDialect({ $schema: _dialect, ...schema }: Record<string, unknown>): Record<string, unknown> {
  return schema
}

/** Of the standard's own schemas alone. */
const meta = new Ajv2020({ addUsedSchema: false, validateFormats: false, logger: false })

/** Patterns by RE2, which takes no more time for one text than for another. The name is what generated code would call it. */
function linearPatterns() {
  let instructions = 0
  const make = (pattern: string) => {
    if (pattern.length > longestPattern) throw new SchemaRefused(`A pattern must have at most ${longestPattern} characters.`)
    const compiled = compilePattern(pattern)
    instructions += compiled.programSize()
    if (instructions > mostInstructions) throw new SchemaRefused('The patterns of the JSON Schema are too complex.')
    return { test: (text: string) => compiled.test(text) }
  }
  return Object.assign(make, { code: 'linearPattern' })
}

function compilePattern(pattern: string): RE2JS {
  try {
    return RE2JS.compile(pattern)
  } catch {
    throw new SchemaRefused('A pattern must be one of RE2: without look-around and references back.')
  }
}

/** Throws when the schema is too large, too deep, circular, or refers to something outside itself. */
function measure(schema: Record<string, unknown>): void {
  if (Buffer.byteLength(JSON.stringify(schema)) > mostSchemaBytes)
    throw new SchemaRefused(`The JSON Schema must have at most ${mostSchemaBytes.toLocaleString('en')} bytes.`)
  let parts = 0
  const walk = (part: unknown, levels: number, open: readonly string[]): void => {
    if (typeof part !== 'object' || part === null) return
    if (levels === 0)
      throw new SchemaRefused(`The JSON Schema must not be nested deeper than ${deepest} levels, references included.`)
    if (++parts > mostParts) throw new SchemaRefused('The JSON Schema is too large when its references are written out.')
    if (foreign.some((keyword) => typeof (part as Record<string, unknown>)[keyword] === 'string'))
      throw new SchemaRefused(`The JSON Schema must not use ${foreign.join(', ')}.`)
    const { $ref: reference } = part as { $ref?: unknown }
    if (typeof reference === 'string') {
      if (open.includes(reference)) throw new SchemaRefused('The JSON Schema must not refer to itself.')
      walk(definitionOf(schema, reference), levels - 1, [...open, reference])
    }
    for (const inner of Object.values(part)) walk(inner, levels - 1, open)
  }
  walk(schema, deepest, [])
}

function definitionOf(schema: Record<string, unknown>, reference: string): unknown {
  const [, place = '', name = ''] = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(reference) ?? []
  const definitions = schema[place] as Record<string, unknown> | undefined
  if (!definitions || !Object.hasOwn(definitions, name))
    throw new SchemaRefused('A $ref of the JSON Schema must name one of its own $defs.')
  return definitions[name]
}
