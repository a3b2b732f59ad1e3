import type { FinishReason } from '../data/generated/enums.ts'
import type { ToolOutcome } from './run-turn.ts'

/** Tokens of one or more model calls. `inputTokens` includes `cachedInputTokens`, `outputTokens` includes `reasoningTokens`. */
export type TokenUsage = {
  inputTokens: number
  cachedInputTokens: number
  outputTokens: number
  reasoningTokens: number
  /** True when at least one call did not report its usage and was counted here. */
  estimated: boolean
}

export type { FinishReason }

/** Why a run failed, in words its tenant may read. */
export type RunFailure = { code: string; message: string }

/** What is written to a run's event log. Every value survives a JSON round trip. */
export type RunEvent =
  | { type: 'TextDelta'; text: string }
  | { type: 'ToolCallStarted'; toolCallId: string; name: string; arguments: string }
  | { type: 'ToolCallFinished'; toolCallId: string; outcome: ToolOutcome }
  | ApprovalRequested
  | { type: 'StreamReset'; text: string }
  | RunPaused
  | { type: 'RunResumed' }
  | TerminalEvent

/** A person has to decide whether a tool is called. `approvalId` is the call's id in the ledger, `expiresAt` an ISO 8601 time. */
export type ApprovalRequested = {
  type: 'ApprovalRequested'
  approvalId: string
  toolCallId: string
  name: string
  arguments: string
  argumentsHash: string
  mayHaveHappened: boolean
  expiresAt: string
}

/** The run waits, and its stream stays open. `resumeAt` is when what it waits for comes by itself, an ISO 8601 time. */
export type RunPaused = { type: 'RunPaused'; status: 'PAUSED_BUDGET' | 'WAITING_APPROVAL'; resumeAt: string }

/** What ends a run's stream. Exactly one is written per run. */
export type TerminalEvent =
  | { type: 'RunCompleted'; messageId: string; finishReason: FinishReason; usage: TokenUsage }
  | { type: 'RunFailed'; failure: RunFailure; usage: TokenUsage }
  | { type: 'RunCancelled'; text: string; usage: TokenUsage }
  | { type: 'RunInterrupted'; text: string; usage: TokenUsage }

const terminalTypes = new Set<string>(['RunCompleted', 'RunFailed', 'RunCancelled', 'RunInterrupted'])

export function isTerminal(event: { type: string }): event is TerminalEvent {
  return terminalTypes.has(event.type)
}

/** A place in a run's event log: `seq` counts from 1 within each `epoch`. */
export type Cursor = { epoch: number; seq: number }

export type LoggedEvent = { cursor: Cursor; event: RunEvent }

/** The start of every stream: no event is at or before it. */
export const origin: Cursor = { epoch: 0, seq: 0 }

/** Orders cursors: negative when `a` comes first. */
export function compareCursors(a: Cursor, b: Cursor): number {
  return a.epoch - b.epoch || a.seq - b.seq
}

/** The form clients see: `<epoch>-<seq>`. */
export function formatCursor(cursor: Cursor): string {
  return `${cursor.epoch}-${cursor.seq}`
}

/** Reads what `formatCursor` wrote; null when `text` is anything else. */
export function parseCursor(text: string): Cursor | null {
  const match = /^(0|[1-9]\d{0,8})-(0|[1-9]\d{0,11})$/.exec(text)
  return match ? { epoch: Number(match[1]), seq: Number(match[2]) } : null
}
