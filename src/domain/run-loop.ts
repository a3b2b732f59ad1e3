import type { AgentConfig, Price, Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { beginCall } from './call-attempt.ts'
import { tenantIdOf } from './ids.ts'
import { type CallOutcome, callModel } from './model-call.ts'
import type { Ports, Tool } from './ports.ts'
import { composePrompt, frameTokens, type PromptFrame, roomFor, turnTokens } from './prompt.ts'
import type { FinishReason, RunFailure, TokenUsage } from './run-event.ts'
import { outlineHistory, readHistory, readQuestion } from './run-history.ts'
import type { RunLog } from './run-log.ts'
import { type Turn, turnsOf } from './run-turn.ts'
import { executeToolCall } from './tool-call.ts'
import { priceAt } from './usage.ts'
import { pseudonymOf } from './user-pseudonym.ts'

/** Why a run under way has to stop: the reason its signal is aborted with. */
export type StopReason = 'cancelled' | 'handedBack' | 'fenced'

/** A run that a worker has claimed, and all it needs to make the answer. */
export type RunTask = {
  run: Run & { config: AgentConfig }
  /** The rows of the run's tenant and, when it is an end user's, of that user. */
  db: TenantDb
  ports: Ports
  /** Whether a model without a price may not be called. */
  refuseUnpricedModels: boolean
  log: RunLog
  /** Aborted with a StopReason. */
  stop: AbortSignal
}

/** What one model call used; null when that was nothing. `turn` counts from 0. */
export type CallUsage = { turn: number; usage: TokenUsage | null }

/**
 * How a run's loop ended. `turns` are all there are, with what was said of an unfinished one; `call` is the last call's usage,
 * which is not in the ledger yet, and null when there is none to enter.
 */
export type LoopOutcome = { turns: Turn[]; call: CallUsage | null; price: Price | null } & (
  | { outcome: 'completed'; finishReason: FinishReason }
  | { outcome: 'failed'; failure: RunFailure }
  | { outcome: StopReason }
)

/** Stores a finished turn that another follows, with its call's usage. False when the run is no longer this worker's. */
export type SaveTurn = (turns: Turn[], call: CallUsage, price: Price | null) => Promise<boolean>

/**
 * Makes the answer, turn by turn, from the first turn that is not stored: the model is called, then the tools it asks for.
 * Ends the way the model, the bound on turns, a failure or the stop signal end it. No transaction is open meanwhile.
 */
export async function runTurns(task: RunTask, saveTurn: SaveTurn): Promise<LoopOutcome> {
  const { run, db, ports, log, stop } = task
  const { config } = run
  const turns = turnsOf(run)
  const [price, tools, question, earlier, userPseudonym] = await Promise.all([
    priceAt(db, config.model, ports.now()),
    enabledTools(task),
    readQuestion(db, run),
    outlineHistory(db, run),
    pseudonymOf(db, run.tenantId, run.userId),
  ])
  const end = { turns, call: null, price }
  if (stop.aborted || run.cancelRequestedAt) return { ...end, outcome: run.cancelRequestedAt ? 'cancelled' : reasonOf(stop) }
  if (!price && task.refuseUnpricedModels) return { ...end, outcome: 'failed', failure: unpriced }

  const frame: PromptFrame = { config, tools, question }
  const tokensInFrame = frameTokens(ports.model, frame)
  const history = await readHistory(db, earlier, roomFor(ports.model, config, tokensInFrame))

  while (turns.length < config.maxTurns) {
    const prompt = composePrompt(ports.model, frame, tokensInFrame, history, turns)
    if (!prompt) return { ...end, outcome: 'failed', failure: tooLong }
    if (stop.aborted) return { ...end, outcome: reasonOf(stop) }
    if (!(await beginCall(db, run, { turn: turns.length, prompt, price, userPseudonym }))) return { ...end, outcome: 'fenced' }
    const answer = await callModel(ports.model, prompt, stop, (text) => log.write({ type: 'TextDelta', text }))
    const call = { turn: turns.length, usage: answer.usage }
    const turn: Turn = { text: answer.text, toolCalls: [], results: [], outputTokens: outputOf(answer), promptTokens: 0 }

    switch (answer.outcome) {
      case 'failed': {
        const { code, message } = answer.error
        return { ...end, turns: [...turns, turn], call, outcome: 'failed', failure: { code, message } }
      }
      case 'aborted':
        return { ...end, turns: [...turns, turn], call, outcome: reasonOf(stop) }
      case 'answered': {
        const isLast = turns.length + 1 === config.maxTurns
        if (answer.reason !== 'TOOL_CALLS' || isLast) {
          const finishReason = answer.reason === 'TOOL_CALLS' ? 'TURNS' : answer.reason
          return { ...end, turns: [...turns, turn], call, outcome: 'completed', finishReason }
        }
        turn.toolCalls = answer.toolCalls
        turn.results = await executeToolCalls(task, turn, tools)
        // A turn whose tools were cut short is not finished: the model must not be told of results that there are not.
        if (stop.aborted) return { ...end, turns: [...turns, turn], call, outcome: reasonOf(stop) }
        turn.promptTokens = turnTokens(ports.model, config.model, turn)
        turns.push(turn)
        if (!(await saveTurn(turns, call, price))) return { ...end, outcome: 'fenced' }
        break
      }
      default:
        answer satisfies never
    }
  }
  return { ...end, outcome: 'completed', finishReason: 'TURNS' }
}

const unpriced: RunFailure = { code: 'MODEL_UNPRICED', message: "The agent's model has no price, so it cannot be called." }

const tooLong: RunFailure = {
  code: 'CONTEXT_EXCEEDED',
  message: "The message and the longest answer the agent may give do not fit into the model's context together.",
}

function reasonOf(stop: AbortSignal): StopReason {
  return stop.reason as StopReason
}

function outputOf({ usage }: CallOutcome): number {
  return usage?.outputTokens ?? 0
}

async function enabledTools({ run, ports }: RunTask): Promise<Tool[]> {
  const { enabledTools } = run.config
  if (enabledTools.length === 0) return []
  const available = await ports.tools.available(tenantIdOf(run.tenantId))
  return available.filter(({ name }) => enabledTools.includes(name))
}

/** All at once. Results are in the order of the calls; the log says which was done when. */
function executeToolCalls({ log, stop }: RunTask, turn: Turn, tools: readonly Tool[]) {
  return Promise.all(
    turn.toolCalls.map(async (call) => {
      log.write({ type: 'ToolCallStarted', toolCallId: call.id, name: call.name, arguments: call.arguments })
      const result = await executeToolCall(call, tools, stop)
      log.write({ type: 'ToolCallFinished', toolCallId: call.id, outcome: result.outcome })
      return result
    }),
  )
}
