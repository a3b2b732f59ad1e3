import { beginCall, isStored, type PlannedCall } from './call-attempt.ts'
import { Escrow, settle } from './escrow.ts'
import type { LineUp } from './line-up.ts'
import { type CallOutcome, callModel, isOfOneModel } from './model-call.ts'
import type { ModelAccount } from './ports.ts'
import type { CallTerms } from './pricing.ts'
import type { Prompt } from './prompt.ts'
import type { RunFailure, TokenUsage } from './run-event.ts'
import type { RunTask } from './run-loop.ts'
import type { Turn } from './run-turn.ts'
import { callIdOf } from './usage.ts'

type CallAnswer =
  | Exclude<CallOutcome, { outcome: 'cut' }>
  | { outcome: 'exhausted'; text: string; usage: TokenUsage | null; resumeAt: number }
  | { outcome: 'crowded' | 'fenced' }

/** What a turn's answer came to. `terms` are those of the model that was called last. */
export type TurnAnswer =
  | (Exclude<CallAnswer, { outcome: 'failed' }> & { terms: CallTerms })
  | { outcome: 'failed'; failure: RunFailure; text: string; usage: TokenUsage | null; terms: CallTerms }
  /** No model could be called. */
  | { outcome: 'unasked'; failure: RunFailure }

type OpenTurn = {
  /** The turns before it. */
  turns: readonly Turn[]
  userPseudonym: string | null
  /** Whether the model was called in this claim before. */
  hasBegun: boolean
  /** The tenant's own; null for the platform's. */
  account: ModelAccount | null
}

/**
 * Has the next turn answered by the first model of the line-up that can. Where one fails that another may stand in for, without
 * having cost anything, the next is asked; once a token came, nobody stands in. When all fail, what is told is why the first did: it is the
 * one that should have answered.
 */
export async function answerTurn(task: RunTask, lineUp: LineUp, open: OpenTurn): Promise<TurnAnswer> {
  const { models } = lineUp
  let first: RunFailure | null = null
  /** Of the model that was called last. */
  let charged: CallTerms | null = null
  let calls = 0
  for (const [index, model] of models.entries()) {
    const briefing = await lineUp.briefing(model)
    const prompt = briefing?.compose(open.turns)
    if (!briefing || !prompt) {
      first ??= briefing ? tooLong : unpriced
      continue
    }
    const { terms } = briefing
    if (charged) await release(task, open)
    charged = terms
    calls++
    const planned = { turn: open.turns.length, prompt, terms, userPseudonym: open.userPseudonym }
    const answer = await callOnce(task, planned, { ...open, hasStandIn: index < models.length - 1 })
    if (answer.outcome !== 'failed') return { ...answer, terms }
    const { error, text, usage } = answer
    const failure = { code: error.code, message: error.message }
    // That one which stands in cannot take the request says nothing of the next.
    const isFinal = usage !== null || (first === null && !isOfOneModel(error))
    if (isFinal) return { outcome: 'failed', failure, text, usage, terms }
    first ??= failure
  }
  const failure = first ?? unpriced
  if (!charged) return { outcome: 'unasked', failure }
  const message = calls > 1 ? `${failure.message} The models to turn to failed, too.` : failure.message
  return { outcome: 'failed', failure: { ...failure, message }, text: '', usage: null, terms: charged }
}

/** Lets go of what was held for a call that came to nothing: the next one may have to wait, and what waits holds nothing. */
async function release({ run, ports, quota }: RunTask, { turns }: OpenTurn): Promise<void> {
  const id = callIdOf({ runId: run.id, turn: turns.length, attempt: run.epoch })
  await settle(
    { tenant: quota.tenant, ports },
    { runId: run.id, calls: [{ id, tokens: 0, at: ports.now(), isOurs: true }], leave: null },
  )
}

type Circumstances = Pick<OpenTurn, 'account' | 'hasBegun'> & { hasStandIn: boolean }

/**
 * One model call: waits for a slot of the model, notes the call, holds tokens for it, and makes it. The order matters. Whoever
 * rebuilds the counters from Postgres finds every call that tokens are held for; and what waits holds nothing.
 */
async function callOnce(task: RunTask, planned: PlannedCall, circumstances: Circumstances): Promise<CallAnswer> {
  const { run, db, ports, tenant, log, stop, quota } = task
  const { prompt, turn } = planned
  const { model, maxOutputTokens } = prompt.request
  const { account, hasBegun, hasStandIn } = circumstances
  let release: () => void = () => undefined
  try {
    // What the platform's account is bounded to is shared by those who are called on it.
    if (!account) release = await ports.modelSlots.acquire({ model, tenantId: quota.tenant.id, weight: tenant.weight }, stop)
    const { noted } = task
    const isOurs = await beginCall(db, run, planned, noted)
    task.noted = null
    if (!isOurs) return { outcome: 'fenced' }
    const id = callIdOf({ runId: run.id, turn, attempt: run.epoch })
    const call = { runId: run.id, id, model, inputTokens: prompt.inputTokens, outputBound: maxOutputTokens, hasBegun }
    const escrow = new Escrow(quota, ports.model, call)
    const opened = await escrow.open(stop)
    if (opened.outcome === 'full') return { outcome: 'crowded' }
    if (opened.outcome === 'exhausted') return { ...opened, text: '', usage: null }
    task.onCall(id)

    const bounded: Prompt = { ...prompt, request: { ...prompt.request, maxOutputTokens: escrow.outputBound } }
    const cover = (text: string) => escrow.cover(text)
    const onText = (text: string) => log.write({ type: 'TextDelta', text })
    const beat = () => log.beat()
    const ready = noted?.stored ?? null
    const answer = await callModel(ports.model, bounded, { signal: stop, cover, onText, beat, account, ready, hasStandIn })
    await escrow.close()
    // Who stands in is called by a run that is stored.
    if (answer.outcome === 'failed' && !(await isStored(noted))) return { outcome: 'fenced' }
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

const unpriced: RunFailure = { code: 'MODEL_UNPRICED', message: "The agent's model has no price, so it cannot be called." }

const tooLong: RunFailure = {
  code: 'CONTEXT_EXCEEDED',
  message: "The message and the longest answer the agent may give do not fit into the model's context together.",
}
