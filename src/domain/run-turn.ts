import type { Run } from '../data/generated/client.ts'
import type { ModelMessage, ToolCall } from './ports.ts'

/** REJECTED: nobody agreed to it, so it was not made. UNKNOWN: it may have been made, and nobody agreed to making it again. */
export type ToolOutcome = 'COMPLETED' | 'FAILED' | 'REFUSED' | 'REJECTED' | 'UNKNOWN'

/** What a tool call came to, and what the model is told about it. */
export type ToolResult = { toolCallId: string; outcome: ToolOutcome; content: string }

/**
 * One model call and the tool calls it asked for, as kept in `runs.turns`. The turn is the unit of retry: while its calls are under way, it
 * has no results, and the ledger of tool calls says which were made.
 */
export type Turn = {
  text: string
  toolCalls: ToolCall[]
  results: ToolResult[]
  /** What the model wrote, hidden reasoning included, by its own count unless it gave none. */
  outputTokens: number
  /** What the turn adds to the input of the next one, counted here. */
  promptTokens: number
  /** The budget ended it, and the answer goes on in the next turn. It does not count against the bound on turns. */
  isCut?: boolean
  /** Who handed the run over to another agent in this turn, and how many turns the run may have. */
  handedOver?: { agentId: string; configVersion: number; maxTurns: number }
}

/** The turns that are stored with the run. */
export function turnsOf(run: Pick<Run, 'turns'>): Turn[] {
  return run.turns as unknown as Turn[]
}

/** Whether the last turn's calls are not over. */
export function isOpen(turns: readonly Turn[]): boolean {
  const last = turns.at(-1)
  return last !== undefined && last.results.length < last.toolCalls.length
}

/** All that the agent said, as it was streamed. */
export function textOf(turns: readonly Turn[]): string {
  return turns.map(({ text }) => text).join('')
}

/** The turns as the model is told of them in the next one. */
export function messagesOf(turns: readonly Turn[]): ModelMessage[] {
  return turns.flatMap(({ text, toolCalls, results }): ModelMessage[] => [
    { role: 'assistant', content: text, toolCalls },
    ...results.map(({ toolCallId, content }) => ({ role: 'tool' as const, toolCallId, content })),
  ])
}
