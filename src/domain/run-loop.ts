import type { AgentConfig, Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import type { CallId } from './admission.ts'
import type { NotedCall } from './call-attempt.ts'
import { tenantIdOf } from './ids.ts'
import { LineUp } from './line-up.ts'
import { answeringConfig } from './model-downgrade.ts'
import { ownAccount } from './model-provider.ts'
import { ModelError, type Ports, type Tool } from './ports.ts'
import type { CallTerms } from './pricing.ts'
import { turnTokens } from './prompt.ts'
import type { QuotaOwner } from './quota-terms.ts'
import { auditRefusedCalls } from './refused-call.ts'
import type { RunTenant } from './run-claim.ts'
import type { FinishReason, RunFailure, TokenUsage } from './run-event.ts'
import { handedTo, handoffsOf, readHandedOver } from './run-handover.ts'
import { type Brief, readBrief } from './run-history.ts'
import type { RunLog } from './run-log.ts'
import { isOpen, type Turn, turnsOf } from './run-turn.ts'
import { planToolCalls } from './tool-call.ts'
import type { LedgerCall, ToolCallChange } from './tool-ledger.ts'
import { carryOutTurn } from './tool-turn.ts'
import { availableTools } from './toolset.ts'
import { answerTurn } from './turn-answer.ts'

/** Why a run under way has to stop: the reason its signal is aborted with. */
export type StopReason = 'cancelled' | 'handedBack' | 'fenced'

/** A run that a worker has claimed, and all it needs to make the answer. */
export type RunTask = {
  run: Run & { config: AgentConfig }
  tenant: RunTenant
  /** For the agent's own model, where it was read with the claim. */
  brief: Brief | null
  /** The model call that was noted with the claim, until it begins; null for none. */
  noted: NotedCall | null
  /** Whose budget it spends. */
  quota: QuotaOwner
  /** The rows of the run's tenant and, when it is an end user's, of that user. */
  db: TenantDb
  ports: Ports
  log: RunLog
  /** Aborted with a StopReason. */
  stop: AbortSignal
  /** Told of the model call that tokens are held for, so that they stay held. */
  onCall: (call: CallId) => void
}

/** What one model call used; null when that was nothing. `turn` counts from 0. */
export type CallUsage = { turn: number; usage: TokenUsage | null }

/**
 * How a run's loop ended. `turns` are all there are, with what was said of an unfinished one; `call` is the last call's usage,
 * which is not in the ledger yet, and null when there is none to enter; `terms` are what it is charged at.
 */
export type LoopOutcome = { turns: Turn[]; call: CallUsage | null; terms: CallTerms | null } & (
  | { outcome: 'completed'; finishReason: FinishReason }
  | { outcome: 'failed'; failure: RunFailure }
  /** There is no budget for more until `resumeAt`, and its tenant wants it to wait. */
  | { outcome: 'paused'; resumeAt: number }
  /** People have to decide about calls of its last turn, after these changes to them. */
  | { outcome: 'waiting'; changes: ToolCallChange[] }
  /** Its tenant has no session for it: others of its runs have them all. */
  | { outcome: 'crowded' }
  | { outcome: StopReason }
)

/**
 * Stores a turn that another follows, with its model call's usage and the tool calls it asks for. False when the run is no longer this
 * worker's.
 */
export type SaveTurn = (turns: Turn[], toolCalls: LedgerCall[], call: CallUsage, terms: CallTerms) => Promise<boolean>

/**
 * Makes the answer, turn by turn, from the first turn that is not stored: the model is called, then the tools it asks for, once these are
 * in the ledger. A turn that an earlier claim left open is closed first, and its model is not called again.
 * Ends the way the model, the bound on turns, a failure or the stop signal end it. An agent that the run is handed over to makes the
 * turns that follow, within the bound of the agent that began. No transaction is open meanwhile.
 */
export async function runTurns(task: RunTask, saveTurn: SaveTurn, hasBegun = false): Promise<LoopOutcome> {
  const { run, db, ports, stop } = task
  if (stop.aborted || run.cancelRequestedAt) return unanswered(run, run.cancelRequestedAt ? 'cancelled' : reasonOf(stop))
  const config = await answeringConfig(task)
  if (!config) return unanswered(run, 'fenced')
  const turns = turnsOf(run)
  const mostTurns = turns.find(({ handedOver }) => handedOver)?.handedOver?.maxTurns ?? config.maxTurns
  const [{ said, terms: firstTerms, userPseudonym }, enabled, handoffs, account] = await Promise.all([
    task.brief && config.model === run.config.model ? task.brief : readBrief(db, run, config, ports.now()),
    enabledTools(task),
    handoffsOf(db, run),
    ownAccount(task).catch(failureOf),
  ])
  const tools = [...handoffs.map(({ tool }) => tool), ...enabled]
  const lineUp = new LineUp(task, config, { tools, said }, firstTerms)
  const end: { turns: Turn[]; call: null; terms: CallTerms | null } = { turns, call: null, terms: firstTerms }
  if (account instanceof ModelError)
    return { ...end, outcome: 'failed', failure: { code: account.code, message: account.message } }

  /** Completes a turn whose calls are over. Answers the agent that it hands the run over to; null for none. */
  const complete = (turn: Turn): string | null => {
    turn.promptTokens = turnTokens(ports.model, run.model, turn)
    const target = handedTo(turn, handoffs)
    if (target) turn.handedOver = { agentId: run.agentId, configVersion: run.configVersion, maxTurns: mostTurns }
    return target
  }

  let planned: LedgerCall[] | null = null
  while (countedTurns(turns) < mostTurns) {
    if (isOpen(turns)) {
      const closing = await carryOutTurn(task, turns, planned, tools, complete)
      if (closing.outcome !== 'closed') return { ...end, ...closing }
      if (closing.handedOverTo !== null) {
        const handedOver = await readHandedOver(db, run)
        if (!handedOver) return { ...end, outcome: 'fenced' }
        // The same turns, so that whoever holds the run as it was claimed knows of those that follow.
        return runTurns({ ...task, run: { ...handedOver, turns: run.turns }, brief: null }, saveTurn, hasBegun)
      }
    }
    const answer = await answerTurn(task, lineUp, { turns, userPseudonym, hasBegun, account })
    if (answer.outcome === 'unasked') return { ...end, outcome: 'failed', failure: answer.failure }
    hasBegun = true
    end.terms = answer.terms
    const call = { turn: turns.length, usage: 'usage' in answer ? answer.usage : null }
    const turn: Turn = { text: '', toolCalls: [], results: [], outputTokens: call.usage?.outputTokens ?? 0, promptTokens: 0 }
    if ('text' in answer) turn.text = answer.text

    switch (answer.outcome) {
      case 'fenced':
        return { ...end, outcome: 'fenced' }
      case 'crowded':
        return { ...end, call, outcome: 'crowded' }
      case 'failed':
        return { ...end, turns: [...turns, turn], call, outcome: 'failed', failure: answer.failure }
      case 'aborted':
        return { ...end, turns: [...turns, turn], call, outcome: reasonOf(stop) }
      case 'exhausted': {
        turn.isCut = true
        turn.promptTokens = turnTokens(ports.model, run.model, turn)
        const said = turn.text === '' ? turns : [...turns, turn]
        if ((config.budgetBehaviour ?? task.tenant.budgetBehaviour) === 'END')
          return { ...end, turns: said, call, outcome: 'completed', finishReason: 'BUDGET' }
        return { ...end, turns: said, call, outcome: 'paused', resumeAt: answer.resumeAt }
      }
      case 'answered': {
        const isLast = countedTurns(turns) + 1 === mostTurns
        if (answer.reason !== 'TOOL_CALLS' || isLast) {
          const finishReason = answer.reason === 'TOOL_CALLS' ? 'TURNS' : answer.reason
          return { ...end, turns: [...turns, turn], call, outcome: 'completed', finishReason }
        }
        turn.toolCalls = answer.toolCalls
        turn.promptTokens = turnTokens(ports.model, run.model, turn)
        planned = planToolCalls({ runId: run.id, turn: turns.length, now: ports.now() }, turn.toolCalls, tools)
        await auditRefusedCalls(task, turns.length, turn, tools)
        turns.push(turn)
        if (!(await saveTurn(turns, planned, call, answer.terms))) return { ...end, outcome: 'fenced' }
        break
      }
      default:
        answer satisfies never
    }
  }
  return { ...end, outcome: 'completed', finishReason: 'TURNS' }
}

/** The end of a run that no model was asked for. */
function unanswered(run: Run, outcome: StopReason): LoopOutcome {
  return { outcome, turns: turnsOf(run), call: null, terms: null }
}

function failureOf(error: unknown): ModelError {
  if (error instanceof ModelError) return error
  throw error
}

function countedTurns(turns: readonly Turn[]): number {
  return turns.filter(({ isCut }) => !isCut).length
}

function reasonOf(stop: AbortSignal): StopReason {
  return stop.reason as StopReason
}

async function enabledTools({ run, ports, db }: RunTask): Promise<Tool[]> {
  const { enabledTools } = run.config
  if (enabledTools.length === 0) return []
  const available = await availableTools(ports, db, tenantIdOf(run.tenantId))
  return available.filter(({ name }) => enabledTools.includes(name))
}
