import { createHash } from 'node:crypto'
import type { Tool, ToolCall, ToolContext } from './ports.ts'
import type { ToolResult } from './run-turn.ts'
import { storable } from './text-repair.ts'

/** What a tool may take, in milliseconds. */
const longestCall = 30_000

/** What the model is told of a result at most, in characters. */
const longestResult = 16_000

/**
 * Calls a tool as the model asked for it. Never throws: the model is told what went wrong and goes on. A call that is aborted,
 * or that takes longer than 30 s, has failed.
 */
export async function executeToolCall(call: ToolCall, tools: readonly Tool[], context: ToolContext): Promise<ToolResult> {
  const result = (outcome: ToolResult['outcome'], content: string) => ({ toolCallId: call.id, outcome, content: cut(content) })
  const tool = tools.find(({ name }) => name === call.name)
  if (!tool) return result('REFUSED', 'There is no such tool.')
  const args = parseArguments(call.arguments)
  if (!args) return result('FAILED', 'The arguments are not valid JSON.')
  const bounded = AbortSignal.any([context.signal, AbortSignal.timeout(longestCall)])
  try {
    return result('COMPLETED', await Promise.race([tool.call(args.value, { ...context, signal: bounded }), rejectOn(bounded)]))
  } catch (error) {
    return result('FAILED', bounded.aborted ? 'The tool took too long.' : error instanceof Error ? error.message : String(error))
  }
}

/** Some models send nothing for a tool without parameters. */
function parseArguments(text: string): { value: unknown } | null {
  try {
    return { value: JSON.parse(text.trim() || '{}') }
  } catch {
    return null
  }
}

/** For tools that do not mind the signal. */
function rejectOn(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.throwIfAborted()
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

function cut(text: string): string {
  const end = text.length > longestResult ? '… (the rest was cut off)' : ''
  return storable(text.slice(0, longestResult)) + end
}

/** The call of a run by its place: the turn, counted from 0, and its index among the calls of the turn. A UUID of version 8 (RFC 9562). */
export function toolCallKey({ runId, turn, index }: { runId: string; turn: number; index: number }): string {
  const hash = createHash('sha256').update(`${runId} ${turn} ${index}`).digest('hex')
  return [hash.slice(0, 8), hash.slice(8, 12), `8${hash.slice(13, 16)}`, `a${hash.slice(17, 20)}`, hash.slice(20, 32)].join('-')
}
