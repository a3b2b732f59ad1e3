import { z } from 'zod'
import type { Tool, ToolContext } from '../domain/ports.ts'
import { calculate, longestExpression } from './calculator.ts'

/** The tools that come with the platform; every tenant may enable them. `now` is the clock, in milliseconds since the epoch. */
export function builtinTools(now: () => number): readonly Tool[] {
  return [currentTime(now), calculator]
}

const calculator = defineTool({
  name: 'calculator',
  description: 'The value of an arithmetic expression, to 15 digits.',
  parameters: z.strictObject({
    expression: z
      .string()
      .max(longestExpression)
      .describe(
        'Numbers, + - * / % ^ ! and parentheses, comparisons with ? :, PI and E, and functions such as sqrt, ln, log10, exp, sin (in radians), abs, round, floor, ceil, min, max, roundTo(x, digits).',
      ),
  }),
  call: async ({ expression }) => calculate(expression),
})

function currentTime(now: () => number): Tool {
  return defineTool({
    name: 'current_time',
    description: 'The current date and time, in a time zone or in UTC.',
    parameters: z.strictObject({
      timeZone: z.string().max(64).optional().describe('An IANA time zone name such as Europe/Paris. UTC when it is left out.'),
    }),
    async call({ timeZone = 'UTC' }) {
      const instant = new Date(now())
      return `${timeFormat(timeZone).format(instant)} (${timeZone}), ${instant.toISOString()}`
    },
  })
}

function timeFormat(timeZone: string): Intl.DateTimeFormat {
  try {
    return new Intl.DateTimeFormat('en-GB', { timeZone, dateStyle: 'full', timeStyle: 'long' })
  } catch {
    throw new Error(`${JSON.stringify(timeZone)} is not an IANA time zone name.`)
  }
}

/** A tool that changes nothing, and whose one schema both tells the model what to send and checks what it sent; a mismatch is thrown for the model to read. */
function defineTool<Parameters extends z.ZodObject>(tool: {
  name: string
  description: string
  parameters: Parameters
  call(args: z.output<Parameters>, context: ToolContext): Promise<string>
}): Tool {
  const { $schema, ...parameters } = z.toJSONSchema(tool.parameters, { io: 'input' })
  return {
    name: tool.name,
    description: tool.description,
    parameters,
    isRepeatable: true,
    asksFirst: () => false,
    async call(args, context) {
      const parsed = tool.parameters.safeParse(args)
      if (!parsed.success) throw new Error(z.prettifyError(parsed.error))
      return tool.call(parsed.data, context)
    },
  }
}
