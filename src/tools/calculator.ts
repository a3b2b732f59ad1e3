import { Parser } from 'expr-eval-fork'

/** Characters of an expression. */
export const longestExpression = 1_000

const functions = ['min', 'max', 'pow', 'hypot', 'roundTo'] as const

/** Arithmetic on numbers and nothing else: no texts, lists, members, assignments or functions of one's own, so that it ends at once. */
const parser = new Parser({
  allowMemberAccess: false,
  operators: { assignment: false, fndef: false, concatenate: false, logical: false, in: false, length: false },
})
const { functions: all } = parser
parser.functions = Object.assign(Object.create(null), Object.fromEntries(functions.map((name) => [name, all[name]])))

/** The value of an arithmetic expression, to 15 digits, which hides what binary fractions add. Throws, in words that the model can act on. */
export function calculate(expression: string): string {
  const value = evaluate(expression)
  if (typeof value === 'number' && Number.isFinite(value)) return String(Number(value.toPrecision(15)))
  throw new Error('The result is not a finite number.')
}

function evaluate(expression: string): unknown {
  try {
    return parser.evaluate(expression)
  } catch (error) {
    throw new Error(`The expression cannot be calculated: ${error instanceof Error ? error.message : String(error)}.`)
  }
}
