import { z } from 'zod'
import { countTokens } from './token-count.ts'

/** The part of a chat completions request that the script looks at. */
export const demoRequest = z.object({
  model: z.string().min(1),
  messages: z
    .array(
      z.object({
        role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
        content: z.string().nullish(),
        tool_calls: z.array(z.unknown()).nullish(),
      }),
    )
    .min(1),
  tools: z.array(z.object({ function: z.object({ name: z.string() }) })).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: z.int().positive().nullish(),
  max_completion_tokens: z.int().positive().nullish(),
})

export type DemoRequest = z.output<typeof demoRequest>

type DemoAnswer = { text: string } | { callTool: string; arguments: Record<string, unknown> }

/** How every answer begins, so that nobody takes it for a model's. */
const demoLabel = '[scripted demo] '

const timeZoneName = /\b[A-Z][A-Za-z]+(?:\/[A-Z][A-Za-z_+-]+)+\b/
const countTo = /\bcount to (\d{1,4})\b/i
const longestCount = 1000

/**
 * What the script answers: it repeats whose instructions it was given and what was said, so that two tenants' answers differ and
 * history shows. Asked for the time it calls `current_time` if that is offered; asked to count to a number (at most 1,000) it does,
 * which is long enough to interrupt.
 */
export function demoAnswer(request: DemoRequest): DemoAnswer {
  const last = request.messages.at(-1)
  if (last?.role === 'tool') return { text: `${demoLabel}The tool answered: ${shorten(last.content ?? '')}` }

  const said = request.messages.filter((message) => message.role === 'user').map((message) => message.content ?? '')
  const question = said.at(-1) ?? ''
  if (/\btime\b/i.test(question) && request.tools?.some((tool) => tool.function.name === 'current_time')) {
    const timeZone = timeZoneName.exec(question)?.[0]
    return { callTool: 'current_time', arguments: timeZone ? { timeZone } : {} }
  }
  const upTo = countTo.exec(question)?.[1]
  if (upTo) {
    const count = Math.min(Number(upTo), longestCount)
    return { text: `${demoLabel}${Array.from({ length: count }, (_, index) => index + 1).join(' ')}` }
  }

  const system = request.messages.find((message) => message.role === 'system' || message.role === 'developer')
  const instructions = system?.content?.trim().split('\n')[0]
  const before = said.length > 1 ? ` Before that you said "${shorten(said.at(-2) ?? '')}".` : ''
  return {
    text:
      `${demoLabel}No model is connected, so this answer is written by a script. ` +
      (instructions ? `My instructions begin with "${shorten(instructions)}". ` : 'I have no instructions. ') +
      `You said "${shorten(question)}" (message ${said.length} of this conversation).${before}`,
  }
}

/** `text` cut into what is sent at once: words, each with the white space before it. */
export function demoPieces(text: string): string[] {
  return text.match(/\s*\S+/g) ?? []
}

/** Input tokens of the request, as OpenAI's cookbook counts messages: three for each besides its content, and three more. */
export function demoInputTokens(request: DemoRequest): number {
  return request.messages.reduce((sum, message) => sum + 3 + countTokens(message.content ?? ''), 3)
}

function shorten(text: string): string {
  const characters = Array.from(text.replace(/\s+/g, ' ').trim())
  return characters.length > 80 ? `${characters.slice(0, 79).join('')}…` : characters.join('')
}
