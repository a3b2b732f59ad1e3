import { type Message, Prisma, type Run } from '../data/generated/client.ts'
import type { RunStatus } from '../data/generated/enums.ts'
import type { RunWhereInput } from '../data/generated/models.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import type { SettledCall } from './admission.ts'
import { nextMoment } from './conversation-clock.ts'
import { newId } from './ids.ts'
import type { CallTerms } from './pricing.ts'
import type { FinishReason, RunFailure, TerminalEvent, TokenUsage } from './run-event.ts'
import type { CallUsage, LoopOutcome } from './run-loop.ts'
import { awaitDecisions, letOthersGoFirst, type Pause, pauseRun } from './run-pause.ts'
import { isFinished } from './run-status.ts'
import { type Turn, textOf, turnsOf } from './run-turn.ts'
import { type LedgerCall, storeTurns } from './tool-ledger.ts'
import {
  type CallEntry,
  type CallKey,
  type EnteredRows,
  enterCall,
  enteredRows,
  recordUsage,
  settledCall,
  sumUsage,
  tokensOf,
} from './usage.ts'
import type { LedgerEntry } from './usage-feed.ts'

/** A finished run as its followers are told of it: the whole text, then the event that ends the stream. */
export type Ending = { text: string; event: TerminalEvent }

/**
 * What a claim came to: how its run ended or that it waits, its last call as the ledger has it, and whether a run may be there to
 * claim that was not before: the next of the conversation, or this one.
 */
export type ClosedClaim = { ending: Ending | null; paused: Pause | null; calls: SettledCall[]; isAwaited: boolean }

type Reply = Pick<Message, 'id' | 'content'>

/** The ending of a finished run, from what is stored. */
export async function readEnding(db: TenantTransaction, run: Run): Promise<Ending> {
  const reply = await db.message.findFirst({ where: { runId: run.id, role: 'ASSISTANT' } })
  return endingOf({ run, reply, usage: await readUsage(db, run.id) })
}

/** The ending of a run that was just ended. */
export function endingOf({ run, reply, usage }: Pick<EndedRun, 'run' | 'reply' | 'usage'>): Ending {
  return { text: reply?.content ?? textOf(turnsOf(run)), event: terminalEvent(run, reply, usage) }
}

async function readUsage(db: TenantTransaction, runId: string): Promise<TokenUsage> {
  const usage = (await sumUsage(db, [runId])).get(runId)
  if (!usage) throw new Error('The ledger has no sum for a run that was asked for.')
  return tokensOf(usage)
}

/** The one place that says how a finished run is told of. */
function terminalEvent(run: Run, reply: Reply | null, usage: TokenUsage): TerminalEvent {
  const text = reply?.content ?? ''
  switch (run.status) {
    case 'COMPLETED':
      return { type: 'RunCompleted', messageId: reply?.id ?? '', finishReason: run.finishReason ?? 'STOP', usage }
    case 'FAILED':
      return { type: 'RunFailed', failure: { code: run.failureCode ?? '', message: run.failureMessage ?? '' }, usage }
    case 'CANCELLED':
      return { type: 'RunCancelled', text, usage }
    case 'INTERRUPTED':
      return { type: 'RunInterrupted', text, usage }
    case 'QUEUED':
    case 'RUNNING':
    case 'WAITING_APPROVAL':
    case 'PAUSED_BUDGET':
      throw new Error(`A run that is ${run.status} has not ended.`)
    default:
      return run.status satisfies never
  }
}

/** Names a claim that is still this worker's: every write of a worker to its run has it. */
function claimOf({ id, epoch }: Pick<Run, 'id' | 'epoch'>): RunWhereInput {
  return { id, epoch, status: 'RUNNING' }
}

function keyOf({ tenantId, id, epoch }: Run, { turn }: CallUsage): CallKey {
  return { tenantId, runId: id, turn, attempt: epoch }
}

/**
 * Stores a turn that another follows, with the tool calls it asks for, and its model call's usage, which stands in any case. False when
 * the run is no longer this claim's.
 */
export async function saveTurn(
  db: TenantDb,
  run: Run,
  turns: Turn[],
  toolCalls: LedgerCall[],
  call: CallUsage,
  terms: CallTerms,
  entry: LedgerEntry,
): Promise<{ isOurs: boolean; settled: SettledCall }> {
  return db.$transaction(async (tx) => {
    const isOurs = await storeTurns(tx, run, turns, toolCalls, entry.now)
    return { isOurs, settled: await recordUsage(tx, { key: keyOf(run, call), usage: call.usage, terms, entry }) }
  })
}

/**
 * Ends a claim the way its loop ended: status, reply and usage at once. The usage stands in any case, also when
 * the run is another claim's by now or was deleted. A run that has to end does not wait for budget.
 */
export async function endClaim(db: TenantDb, run: Run, outcome: LoopOutcome, entry: LedgerEntry): Promise<ClosedClaim> {
  const { turns, call, terms } = outcome
  const made = call && terms && { key: keyOf(run, call), usage: call.usage, terms, entry }
  const change = changeFor(outcome)
  const close = async (tx: TenantTransaction): Promise<ClosedClaim> => {
    const waits = await letWait(tx, run, outcome)
    if (change && !waits) {
      const { ended, settled } = await endRun(tx, run, ['RUNNING'], { ...change, turns }, entry.now, made)
      const calls = settled ? [settled] : []
      return { ending: ended && endingOf(ended), paused: null, calls, isAwaited: ended ? ended.isAwaited : true }
    }
    if (outcome.outcome === 'handedBack') await requeue(tx, run)
    if (outcome.outcome === 'crowded') await letOthersGoFirst(tx, run)
    const calls = made ? [await recordUsage(tx, made)] : []
    const paused = waits === 'decided' ? null : waits
    return { ending: null, paused, calls, isAwaited: !paused }
  }
  const isOneStatement = change !== null && !mayWait(outcome)
  const closed = isOneStatement ? await close(db) : await db.$transaction(close)
  if (closed.ending || closed.paused || !change) return closed
  return { ...closed, ending: await readUnclaimed(db, run, textOf(turns)) }
}

function mayWait({ outcome }: LoopOutcome): boolean {
  return outcome === 'paused' || outcome === 'waiting'
}

/** Lets a run wait whose loop ended so; null when it did not, or the run cannot wait. */
function letWait(tx: TenantTransaction, run: Run, outcome: LoopOutcome): Promise<Pause | 'decided' | null> | null {
  if (outcome.outcome === 'paused') return pauseRun(tx, run, outcome.turns, new Date(outcome.resumeAt))
  return outcome.outcome === 'waiting' ? awaitDecisions(tx, run, outcome.changes) : null
}

/** Puts a claimed run back into the queue. False when it is no longer that claim's. */
export async function requeue(db: TenantTransaction, claim: Pick<Run, 'id' | 'epoch'>): Promise<boolean> {
  const { count } = await db.run.updateMany({ where: claimOf(claim), data: { status: 'QUEUED', workerId: null } })
  return count === 1
}

/** Why a run is interrupted in favour of another message of its conversation. */
export const superseded: RunFailure = {
  code: 'SUPERSEDED',
  message: 'Another message was sent that did not wait for this answer.',
}

type Change = {
  status: 'COMPLETED' | 'FAILED' | 'CANCELLED'
  finishReason?: FinishReason
  /** Null takes back what was said before. */
  failure?: RunFailure | null
  /** Where the run is ended by a claim that is made for it. */
  epoch?: number
}

/** Null when the outcome does not end the run. */
function changeFor(outcome: LoopOutcome): Change | null {
  switch (outcome.outcome) {
    case 'completed':
      // Its end may have been asked for meanwhile, and why is of no interest any more.
      return { status: 'COMPLETED', finishReason: outcome.finishReason, failure: null }
    case 'failed':
      return { status: 'FAILED', failure: outcome.failure }
    case 'cancelled':
    // Unless it can wait.
    case 'paused':
    case 'waiting':
      return { status: 'CANCELLED' }
    case 'crowded':
    case 'handedBack':
    case 'fenced':
      return null
    default:
      return outcome satisfies never
  }
}

type EndedRun = { run: Run; reply: Reply | null; usage: TokenUsage; isAwaited: boolean }

/** `ended` is null when nothing was changed, and `settled` when there was no call to enter. */
type RunEnd = { ended: EndedRun | null; settled: SettledCall | null }

/**
 * Makes the run terminal, with the reply: of a completed run always, of one that was stopped what it had said, of a failed one
 * none. One that is stopped in favour of another message is INTERRUPTED, and not CANCELLED. Nothing of that is changed unless the
 * run is as it was read, in one of the statuses `from`. Its tool calls that were not made never will be. It `isAwaited` when another
 * may be queued: the next of its conversation, say. Its last call `made` is entered into the ledger in any case.
 *
 * One statement, and so a transaction of its own outside of one. It holds the conversation first, as `advanceConversation` does. What it
 * changes it sees as it is by then; what it only reads, as it was before it waited for the conversation, so whoever it waited for may have
 * queued a run.
 */
export async function endRun(
  tx: TenantTransaction,
  run: Run,
  from: readonly RunStatus[],
  { turns, ...change }: Change & { turns: Turn[] },
  now: number,
  made: CallEntry | null = null,
): Promise<RunEnd> {
  const { tenantId, conversationId } = run
  const isStopped = change.status === 'CANCELLED'
  const status = isStopped
    ? Prisma.sql`case when failure_code = ${superseded.code} then 'INTERRUPTED' else 'CANCELLED' end`
    : Prisma.sql`${change.status}`
  const content = textOf(turns)
  const reply =
    change.status === 'COMPLETED' || (isStopped && content !== '')
      ? { id: newId(), content, tokensUsed: turns.reduce((sum, { outputTokens }) => sum + outputTokens, 0) }
      : null
  const keepsFailure = change.failure === undefined
  const [row] = await tx.$queryRaw<EndRow[]>`
    with held as materialized (
      select c.updated_at from conversations c
      where c.tenant_id = ${tenantId}::uuid and c.id = ${conversationId}::uuid
      for no key update),
    place as (
      update conversations c set updated_at = ${nextMoment(now)}
      from held where c.tenant_id = ${tenantId}::uuid and c.id = ${conversationId}::uuid
      returning c.updated_at as at),
    ended as (
      update runs set status = (${status})::run_status, finish_reason = ${change.finishReason ?? null}::finish_reason,
        failure_code = case when ${keepsFailure}::boolean then failure_code else ${change.failure?.code ?? null}::text end,
        failure_message = case when ${keepsFailure}::boolean then failure_message else ${change.failure?.message ?? null}::text end,
        epoch = ${change.epoch ?? run.epoch}::int, turns = ${JSON.stringify(turns)}::jsonb, finished_at = ${new Date(now)}::timestamptz
      from place
      where tenant_id = ${tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int
        and status = any (${from}::run_status[])
      returning runs.*, place.at),
    unmade as (
      update tool_calls c set finished_at = ended.finished_at,
        status = case when c.status in ('STARTED', 'AMBIGUOUS') then 'AMBIGUOUS' else 'CANCELLED' end::tool_call_status
      from ended where c.tenant_id = ended.tenant_id and c.run_id = ended.id and c.finished_at is null),
    said as (
      insert into messages (tenant_id, id, conversation_id, run_id, user_id, role, content, tokens_used, created_at)
      select tenant_id, ${reply?.id ?? null}::uuid, conversation_id, id, user_id, 'ASSISTANT', ${content}::text,
        ${reply?.tokensUsed ?? 0}::int, at
      from ended where ${reply !== null}::boolean),
    ${enterCall(made)},
    counted as (${enteredRows})
    select ${columnsOf('Run', 'ended', 'run.')}, counted.made, counted.entered, (
      select row_to_json(sums) from (
        select sum(input_tokens) as "inputTokens", sum(cached_input_tokens) as "cachedInputTokens", sum(output_tokens) as "outputTokens",
          sum(reasoning_tokens) as "reasoningTokens", bool_or(estimated) as estimated
        from (
          select * from usage_records where tenant_id = ${tenantId}::uuid and run_id = ${run.id}::uuid
          union all select * from entered) calls) sums
    ) as sums, exists (
      select from runs n where n.tenant_id = ${tenantId}::uuid and n.finished_at is null and n.status = 'QUEUED' and n.id <> ${run.id}::uuid
    ) or (
      select held.updated_at <> c.updated_at from held, conversations c
      where c.tenant_id = ${tenantId}::uuid and c.id = ${conversationId}::uuid
    ) as "isAwaited"
    from counted left join ended on true`
  const settled = made && (await settledCall(tx, made, row))
  if (!row || row['run.id'] === null) return { ended: null, settled }
  const ended = takeModel<Run>('Run', row, 'run.')
  // What somebody else entered meanwhile is not in the sums.
  const usage = settled?.isOurs === false ? await readUsage(tx, run.id) : tokensIn(row.sums)
  return { ended: { run: ended, reply, usage, isAwaited: row.isAwaited }, settled }
}

type EndRow = Record<string, unknown> &
  EnteredRows & { sums: { [Sum in keyof TokenUsage]: TokenUsage[Sum] | null }; isAwaited: boolean }

/** Of a run that called no model there is no sum. */
function tokensIn(sums: EndRow['sums']): TokenUsage {
  return {
    inputTokens: sums.inputTokens ?? 0,
    cachedInputTokens: sums.cachedInputTokens ?? 0,
    outputTokens: sums.outputTokens ?? 0,
    reasoningTokens: sums.reasoningTokens ?? 0,
    estimated: sums.estimated ?? false,
  }
}

/** What a claim whose last write changed nothing is to tell the run's followers; null when it is not its to tell. */
async function readUnclaimed(db: TenantDb, run: Run, text: string): Promise<Ending | null> {
  const found = await db.run.findFirst({ where: { id: run.id } })
  if (found) {
    // Its write was committed before, and only the confirmation was lost.
    return found.epoch === run.epoch && isFinished(found) ? readEnding(db, found) : null
  }
  // The conversation was deleted: for whoever still follows, that is a cancelled run.
  const usage = (await sumUsage(db, [run.id])).get(run.id)
  return usage ? { text, event: { type: 'RunCancelled', text, usage: tokensOf(usage) } } : null
}
