import type { AgentConfig, Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import type { CallId } from './admission.ts'
import { beginCall } from './call-attempt.ts'
import { Escrow } from './escrow.ts'
import { tenantIdOf } from './ids.ts'
import { type CallOutcome, callModel } from './model-call.ts'
import { answeringConfig } from './model-downgrade.ts'
import type { Ports, Tool } from './ports.ts'
import { type CallTerms, termsAt } from './pricing.ts'
import { composePrompt, frameTokens, type Prompt, type PromptFrame, roomFor, turnTokens } from './prompt.ts'
import type { QuotaOwner } from './quota-terms.ts'
import type { RunTenant } from './run-claim.ts'
import type { FinishReason, RunFailure, TokenUsage } from './run-event.ts'
import { handedTo, handoffsOf, readHandedOver } from './run-handover.ts'
import { readHistory, readSaid } from './run-history.ts'
import type { RunLog } from './run-log.ts'
import { type Turn, turnsOf } from './run-turn.ts'
import { executeToolCall, toolCallKey } from './tool-call.ts'
import { availableTools } from './toolset.ts'
import { callIdOf } from './usage.ts'
import { pseudonymOf } from './user-pseudonym.ts'

/** Why a run under way has to stop: the reason its signal is aborted with. */
export type StopReason = 'cancelled' | 'handedBack' | 'fenced'

/** A run that a worker has claimed, and all it needs to make the answer. */
export type RunTask = {
  run: Run & { config: AgentConfig }
  tenant: RunTenant
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
  /** Its tenant has no session for it: others of its runs have them all. */
  | { outcome: 'crowded' }
  | { outcome: StopReason }
)

/**
 * Stores a finished turn that another follows, with its call's usage, and, unless that is null, hands the run over to this agent. False when the
 * run is no longer this worker's.
 */
export type SaveTurn = (turns: Turn[], call: CallUsage, terms: CallTerms, handOverTo: string | null) => Promise<boolean>

/**
 * Makes the answer, turn by turn, from the first turn that is not stored: the model is called, then the tools it asks for.
 * Ends the way the model, the bound on turns, a failure or the stop signal end it. An agent that the run is handed over to makes the
 * turns that follow, within the bound of the agent that began. No transaction is open meanwhile.
 */
export async function runTurns(task: RunTask, saveTurn: SaveTurn, isHandedOver = false): Promise<LoopOutcome> {
  const { run, db, ports, stop } = task
  if (stop.aborted || run.cancelRequestedAt) return unanswered(run, run.cancelRequestedAt ? 'cancelled' : reasonOf(stop))
  const config = await answeringConfig(task)
  if (!config) return unanswered(run, 'fenced')
  const turns = turnsOf(run)
  const mostTurns = turns.find(({ handedOver }) => handedOver)?.handedOver?.maxTurns ?? config.maxTurns
  const [terms, enabled, handoffs, { question, earlier }, userPseudonym] = await Promise.all([
    termsAt(db, tenantIdOf(run.tenantId), config.model, ports.now()),
    enabledTools(task),
    handoffsOf(db, run),
    readSaid(db, run, config),
    pseudonymOf(db, run.tenantId, run.userId),
  ])
  const end = { turns, call: null, terms }
  if (!terms) return { ...end, outcome: 'failed', failure: unpriced }

  const tools = [...handoffs.map(({ tool }) => tool), ...enabled]
  const frame: PromptFrame = { config, tools, question }
  const tokensInFrame = frameTokens(ports.model, frame)
  const history = await readHistory(db, earlier, roomFor(ports.model, config, tokensInFrame))

  let hasBegun = isHandedOver
  while (countedTurns(turns) < mostTurns) {
    const prompt = composePrompt(ports.model, frame, tokensInFrame, history, turns)
    if (!prompt) return { ...end, outcome: 'failed', failure: tooLong }
    const answer = await answerOnce(task, { turn: turns.length, prompt, terms, userPseudonym }, hasBegun)
    hasBegun = true
    const call = { turn: turns.length, usage: 'usage' in answer ? answer.usage : null }
    const turn: Turn = { text: '', toolCalls: [], results: [], outputTokens: call.usage?.outputTokens ?? 0, promptTokens: 0 }
    if ('text' in answer) turn.text = answer.text

    switch (answer.outcome) {
      case 'fenced':
        return { ...end, outcome: 'fenced' }
      case 'crowded':
        return { ...end, call, outcome: 'crowded' }
      case 'failed': {
        const { code, message } = answer.error
        return { ...end, turns: [...turns, turn], call, outcome: 'failed', failure: { code, message } }
      }
      case 'aborted':
        return { ...end, turns: [...turns, turn], call, outcome: reasonOf(stop) }
      case 'exhausted': {
        turn.isCut = true
        turn.promptTokens = turnTokens(ports.model, config.model, turn)
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
        turn.results = await executeToolCalls(task, turns.length, turn, tools)
        // A turn whose tools were cut short is not finished: the model must not be told of results that there are not.
        if (stop.aborted) return { ...end, turns: [...turns, turn], call, outcome: reasonOf(stop) }
        turn.promptTokens = turnTokens(ports.model, config.model, turn)
        const target = handedTo(turn, handoffs)
        if (target) turn.handedOver = { agentId: run.agentId, configVersion: run.configVersion, maxTurns: mostTurns }
        turns.push(turn)
        if (!(await saveTurn(turns, call, terms, target))) return { ...end, outcome: 'fenced' }
        if (target === null) break
        const handedOver = await readHandedOver(db, run)
        if (!handedOver) return { ...end, outcome: 'fenced' }
        // The same turns, so that whoever holds the run as it was claimed knows of those that follow.
        return runTurns({ ...task, run: { ...handedOver, turns: run.turns } }, saveTurn, true)
      }
      default:
        answer satisfies never
    }
  }
  return { ...end, outcome: 'completed', finishReason: 'TURNS' }
}

type Answer =
  | Exclude<CallOutcome, { outcome: 'cut' }>
  | { outcome: 'exhausted'; text: string; usage: TokenUsage | null; resumeAt: number }
  | { outcome: 'crowded' | 'fenced' }

/**
 * One model call: waits for a slot of the model, notes the call, holds tokens for it, and makes it. The order matters. Whoever
 * rebuilds the counters from Postgres finds every call that tokens are held for; and what waits holds nothing.
 */
async function answerOnce(task: RunTask, planned: PlannedCall, hasBegun: boolean): Promise<Answer> {
  const { run, db, ports, tenant, log, stop, quota } = task
  const { prompt, turn } = planned
  const { model, maxOutputTokens } = prompt.request
  let release: () => void = () => undefined
  try {
    release = await ports.modelSlots.acquire({ model, tenantId: quota.tenant.id, weight: tenant.weight }, stop)
    if (!(await beginCall(db, run, planned))) return { outcome: 'fenced' }
    const id = callIdOf({ runId: run.id, turn, attempt: run.epoch })
    const call = { runId: run.id, id, model, inputTokens: prompt.inputTokens, outputBound: maxOutputTokens, hasBegun }
    const escrow = new Escrow(quota, ports.model, call)
    const opened = await escrow.open(stop)
    if (opened.outcome === 'full') return { outcome: 'crowded' }
    if (opened.outcome === 'exhausted') return { ...opened, text: '', usage: null }
    task.onCall(id)

    const bounded: Prompt = { ...prompt, request: { ...prompt.request, maxOutputTokens: escrow.outputBound } }
    const say = (text: string) => log.write({ type: 'TextDelta', text })
    const answer = await callModel(ports.model, bounded, stop, (text) => escrow.cover(text), say)
    await escrow.close()
    // The model stopped where the budget told it to.
    const isCut = answer.outcome === 'cut' || (answer.outcome === 'answered' && answer.reason === 'LENGTH' && escrow.isShort)
    if (isCut) return { outcome: 'exhausted', text: answer.text, usage: answer.usage, resumeAt: escrow.resumeAt }
    return answer as Exclude<CallOutcome, { outcome: 'cut' }>
  } catch (error) {
    if (!stop.aborted || error !== stop.reason) throw error
    return { outcome: 'aborted', text: '', usage: null }
  } finally {
    release()
  }
}

type PlannedCall = Parameters<typeof beginCall>[2]

/** The end of a run that no model was asked for. */
function unanswered(run: Run, outcome: StopReason): LoopOutcome {
  return { outcome, turns: turnsOf(run), call: null, terms: null }
}

function countedTurns(turns: readonly Turn[]): number {
  return turns.filter(({ isCut }) => !isCut).length
}

const unpriced: RunFailure = { code: 'MODEL_UNPRICED', message: "The agent's model has no price, so it cannot be called." }

const tooLong: RunFailure = {
  code: 'CONTEXT_EXCEEDED',
  message: "The message and the longest answer the agent may give do not fit into the model's context together.",
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

/** All at once. Results are in the order of the calls; the log says which was done when. */
function executeToolCalls({ run, log, stop }: RunTask, number: number, turn: Turn, tools: readonly Tool[]) {
  return Promise.all(
    turn.toolCalls.map(async (call, index) => {
      log.write({ type: 'ToolCallStarted', toolCallId: call.id, name: call.name, arguments: call.arguments })
      const context = { signal: stop, idempotencyKey: toolCallKey({ runId: run.id, turn: number, index }) }
      const result = await executeToolCall(call, tools, context)
      log.write({ type: 'ToolCallFinished', toolCallId: call.id, outcome: result.outcome })
      return result
    }),
  )
}
