import type { Tool } from './ports.ts'
import type { RunTask, StopReason } from './run-loop.ts'
import type { ToolResult, Turn } from './run-turn.ts'
import { type CallEnd, decideUntil, executeToolCall } from './tool-call.ts'
import {
  closeTurn,
  finishToolCall,
  isUndecided,
  type LedgerCall,
  readToolCalls,
  startToolCalls,
  type ToolCallChange,
} from './tool-ledger.ts'

/**
 * How far the calls of a turn got: all over and stored, with the agent that the run was handed over to, or some wait for a person to decide after these
 * changes, or the claim ends.
 */
export type TurnEnd =
  | { outcome: 'closed'; handedOverTo: string | null }
  | { outcome: 'waiting'; changes: ToolCallChange[] }
  | { outcome: StopReason }

/**
 * Makes the calls of the last turn that are to be made, all at once, and closes the turn with what they came to, `complete`d. `planned` is what was
 * just entered of them; null when an earlier claim did that, and the ledger has to say how far it got. What was completed is not
 * repeated; what an earlier claim may have made, and cannot be repeated, waits for a person like what a person has to agree to.
 */
export async function carryOutTurn(
  task: RunTask,
  turns: Turn[],
  planned: readonly LedgerCall[] | null,
  tools: readonly Tool[],
  complete: (turn: Turn) => string | null,
): Promise<TurnEnd> {
  const { run, db, ports, log, stop } = task
  const calls = planned ?? (await readToolCalls(db, run.id, turns.length - 1))
  const toolOf = ({ name }: LedgerCall) => tools.find((tool) => tool.name === name)
  const isToBeMade = (call: LedgerCall) =>
    ['INTENDED', 'APPROVED'].includes(call.status) || (call.status === 'STARTED' && toolOf(call)?.isRepeatable === true)
  const toMake = calls.filter(isToBeMade)
  const onlyOnce = new Set(toMake.filter((call) => toolOf(call)?.isRepeatable === false))
  const doubtful = calls.filter((call) => call.status === 'STARTED' && !toMake.includes(call))
  const changes: ToolCallChange[] = doubtful.map((call) => changeTo(call, { outcome: 'UNKNOWN' }, ports.now()))

  if (stop.aborted) return { outcome: stop.reason as StopReason }
  const ids = [...onlyOnce].map(({ id }) => id)
  if (ids.length > 0 && !(await startToolCalls(db, run, ids, ports.now()))) return { outcome: 'fenced' }

  const tellStart = ({ callId, name, arguments: args }: LedgerCall) =>
    log.write({ type: 'ToolCallStarted', toolCallId: callId, name, arguments: args })
  for (const call of calls.filter(({ finishedAt }) => finishedAt)) {
    if (planned) tellStart(call)
    // Also of those that an earlier claim saw the end of: their followers may not have been told.
    log.write({ type: 'ToolCallFinished', ...endOf(call) })
  }
  let underWay = toMake.length
  await Promise.all(
    toMake.map(async (call) => {
      tellStart(call)
      const end = await executeToolCall(call, tools, { signal: stop, idempotencyKey: call.id })
      underWay -= 1
      // What was cut short has no end yet: whoever claims the run next finds it begun.
      if (stop.aborted && (end.outcome === 'UNKNOWN' || !onlyOnce.has(call))) return
      const change = changeTo(call, end, ports.now())
      changes.push(change)
      if (end.outcome !== 'UNKNOWN') log.write({ type: 'ToolCallFinished', toolCallId: call.callId, outcome: end.outcome })
      const isTurnOver = underWay === 0 && !stop.aborted && calls.every((one) => one.finishedAt || toMake.includes(one))
      if (onlyOnce.has(call) && change.finishedAt && !isTurnOver) await finishToolCall(db, run, change)
    }),
  )
  if (changes.length < doubtful.length + toMake.length) return { outcome: stop.reason as StopReason }

  const now = calls.map((call): LedgerCall => {
    const change = changes.find(({ id }) => id === call.id)
    return change ? { ...call, ...change, decidedAt: change.finishedAt && call.decidedAt } : call
  })
  if (now.some(isUndecided)) return { outcome: 'waiting', changes }
  const open = turns.pop()
  if (!open) throw new Error('There is no turn whose calls were made.')
  const closed: Turn = { ...open, results: now.map((call) => ({ ...endOf(call), content: call.result ?? '' })) }
  const handedOverTo = complete(closed)
  turns.push(closed)
  return (await closeTurn(db, run, turns, changes, handedOverTo)) ? { outcome: 'closed', handedOverTo } : { outcome: 'fenced' }
}

function changeTo({ id, expiresAt }: LedgerCall, end: CallEnd, now: number): ToolCallChange {
  if (end.outcome === 'UNKNOWN') return { id, status: 'AMBIGUOUS', result: null, expiresAt: decideUntil(now), finishedAt: null }
  return { id, status: end.outcome, result: end.content, expiresAt, finishedAt: new Date(now) }
}

/** How a call ended, as the model and the followers are told. */
function endOf({ callId, status, startedAt }: LedgerCall): Omit<ToolResult, 'content'> {
  switch (status) {
    case 'COMPLETED':
    case 'FAILED':
    case 'REFUSED':
      return { toolCallId: callId, outcome: status }
    case 'REJECTED':
    case 'EXPIRED':
      return { toolCallId: callId, outcome: startedAt ? 'UNKNOWN' : 'REJECTED' }
    case 'INTENDED':
    case 'WAITING':
    case 'APPROVED':
    case 'STARTED':
    case 'AMBIGUOUS':
    case 'CANCELLED':
      throw new Error(`A tool call that is ${status} has not ended.`)
    default:
      return status satisfies never
  }
}
