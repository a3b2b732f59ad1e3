import type { Message, Run } from '../data/generated/client.ts'
import type { RunStatus } from '../data/generated/enums.ts'
import type { RunWhereInput } from '../data/generated/models.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import type { SettledCall } from './admission.ts'
import { advanceConversation } from './conversation-clock.ts'
import { newId, tenantIdOf } from './ids.ts'
import type { CallTerms } from './pricing.ts'
import type { FinishReason, RunFailure, TerminalEvent, TokenUsage } from './run-event.ts'
import type { CallUsage, LoopOutcome } from './run-loop.ts'
import { awaitDecisions, letOthersGoFirst, type Pause, pauseRun } from './run-pause.ts'
import { isFinished } from './run-status.ts'
import { type Turn, textOf, turnsOf } from './run-turn.ts'
import { type LedgerCall, storeTurns } from './tool-ledger.ts'
import { type CallKey, recordUsage, sumUsage, tokensOf } from './usage.ts'
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
  return endingOf(db, run, await db.message.findFirst({ where: { runId: run.id, role: 'ASSISTANT' } }))
}

async function endingOf(db: TenantTransaction, run: Run, reply: Reply | null): Promise<Ending> {
  const usage = (await sumUsage(db, [run.id])).get(run.id)
  if (!usage) throw new Error('The ledger has no sum for a run that was asked for.')
  return { text: reply?.content ?? textOf(turnsOf(run)), event: terminalEvent(run, reply, tokensOf(usage)) }
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
    return { isOurs, settled: await recordUsage(tx, keyOf(run, call), call.usage, terms, entry) }
  })
}

/**
 * Ends a claim the way its loop ended: status, reply and usage in one transaction. The usage stands in any case, also when
 * the run is another claim's by now or was deleted. A run that has to end does not wait for budget.
 */
export async function endClaim(db: TenantDb, run: Run, outcome: LoopOutcome, entry: LedgerEntry): Promise<ClosedClaim> {
  const { turns, call, terms } = outcome
  const change = changeFor(outcome)
  const closed = await db.$transaction(async (tx): Promise<ClosedClaim> => {
    const waits = await letWait(tx, run, outcome)
    const ended = !waits && change && (await endRun(tx, run, ['RUNNING'], { ...change, turns }, entry.now))
    if (outcome.outcome === 'handedBack') await requeue(tx, run)
    if (outcome.outcome === 'crowded') await letOthersGoFirst(tx, run)
    const calls = call && terms ? [await recordUsage(tx, keyOf(run, call), call.usage, terms, entry)] : []
    const ending = ended ? await endingOf(tx, ended.run, ended.reply) : null
    const paused = waits === 'decided' ? null : waits
    return { ending, paused, calls, isAwaited: ended ? ended.isAwaited : !paused }
  })
  if (closed.ending || closed.paused || !change) return closed
  return { ...closed, ending: await readUnclaimed(db, run, textOf(turns)) }
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

/** How a run ends that was asked to. Whoever supersedes a run holds its conversation, so it is held when this is asked. */
async function stoppedStatus(tx: TenantTransaction, id: string): Promise<'CANCELLED' | 'INTERRUPTED'> {
  const asked = await tx.run.findFirst({ where: { id }, select: { failureCode: true } })
  return asked?.failureCode === superseded.code ? 'INTERRUPTED' : 'CANCELLED'
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

type EndedRun = { run: Run; reply: Reply | null; isAwaited: boolean }

/**
 * Makes the run terminal, with the reply: of a completed run always, of one that was stopped what it had said, of a failed one
 * none. One that is stopped in favour of another message is INTERRUPTED, and not CANCELLED. Null, and nothing is changed, unless the
 * run is as it was read, in one of the statuses `from`. Its tool calls that were not made never will be. It `isAwaited` when another
 * is queued: the next of its conversation, say.
 */
export async function endRun(
  tx: TenantTransaction,
  run: Run,
  from: readonly RunStatus[],
  { turns, ...change }: Change & { turns: Turn[] },
  now: number,
): Promise<EndedRun | null> {
  const { tenantId, conversationId } = run
  const at = await advanceConversation(tx, tenantIdOf(tenantId), conversationId, now)
  if (!at) return null
  const isStopped = change.status === 'CANCELLED'
  const status = isStopped ? await stoppedStatus(tx, run.id) : change.status
  const content = textOf(turns)
  const reply =
    change.status === 'COMPLETED' || (isStopped && content !== '')
      ? { id: newId(), content, tokensUsed: turns.reduce((sum, { outputTokens }) => sum + outputTokens, 0) }
      : null
  const keepsFailure = change.failure === undefined
  const [ended] = await tx.$queryRaw<(Record<string, unknown> & { isAwaited: boolean })[]>`
    with ended as (
      update runs set status = ${status}::run_status, finish_reason = ${change.finishReason ?? null}::finish_reason,
        failure_code = case when ${keepsFailure}::boolean then failure_code else ${change.failure?.code ?? null}::text end,
        failure_message = case when ${keepsFailure}::boolean then failure_message else ${change.failure?.message ?? null}::text end,
        epoch = ${change.epoch ?? run.epoch}::int, turns = ${JSON.stringify(turns)}::jsonb, finished_at = ${new Date(now)}::timestamptz
      where tenant_id = ${tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int
        and status = any (${from}::run_status[])
      returning *),
    unmade as (
      update tool_calls c set finished_at = ended.finished_at,
        status = case when c.status in ('STARTED', 'AMBIGUOUS') then 'AMBIGUOUS' else 'CANCELLED' end::tool_call_status
      from ended where c.tenant_id = ended.tenant_id and c.run_id = ended.id and c.finished_at is null),
    said as (
      insert into messages (tenant_id, id, conversation_id, run_id, user_id, role, content, tokens_used, created_at)
      select tenant_id, ${reply?.id ?? null}::uuid, conversation_id, id, user_id, 'ASSISTANT', ${content}::text,
        ${reply?.tokensUsed ?? 0}::int, ${at}::timestamptz
      from ended where ${reply !== null}::boolean)
    select ${columnsOf('Run', 'ended', 'run.')}, exists (
      select from runs n where n.tenant_id = ${tenantId}::uuid and n.finished_at is null and n.status = 'QUEUED' and n.id <> ${run.id}::uuid
    ) as "isAwaited" from ended`
  return ended ? { run: takeModel<Run>('Run', ended, 'run.'), reply, isAwaited: ended.isAwaited } : null
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
