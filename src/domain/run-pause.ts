import type { Run, ToolCall as ToolCallRow } from '../data/generated/client.ts'
import type { RunStatus } from '../data/generated/enums.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { ApprovalRequested, RunPaused } from './run-event.ts'
import type { Turn } from './run-turn.ts'
import { changeToolCalls, type ToolCallChange, undecided } from './tool-ledger.ts'

/** How its followers are told that a run waits: what for, and that it does. */
export type Pause = [...ApprovalRequested[], RunPaused]

/** Whether it waits for budget or for people, without a worker or a session. */
export function isPaused({ status }: { status: RunStatus }): boolean {
  return status === 'PAUSED_BUDGET' || status === 'WAITING_APPROVAL'
}

/** What followers of a run are told that waits. */
export async function readPause(db: TenantTransaction, { id, status, resumeAt }: Run): Promise<Pause> {
  if (status === 'PAUSED_BUDGET' && resumeAt) return [pausedEvent(status, resumeAt)]
  return pauseOf(await db.toolCall.findMany({ where: { runId: id, ...undecided }, orderBy: [{ turn: 'asc' }, { place: 'asc' }] }))
}

function pauseOf(asks: readonly ToolCallRow[]): Pause {
  const requests = asks.map(
    (call): ApprovalRequested => ({
      ...{ type: 'ApprovalRequested', approvalId: call.id, toolCallId: call.callId, name: call.name, arguments: call.arguments },
      ...{ argumentsHash: call.argumentsHash, mayHaveHappened: call.startedAt !== null },
      expiresAt: (call.expiresAt ?? new Date(0)).toISOString(),
    }),
  )
  return [...requests, pausedEvent('WAITING_APPROVAL', new Date(firstExpiry(asks) ?? 0))]
}

function pausedEvent(status: RunPaused['status'], resumeAt: Date): RunPaused {
  return { type: 'RunPaused', status, resumeAt: resumeAt.toISOString() }
}

/** Lets a claimed run wait for budget. Null, and nothing is changed, when it is no longer that claim's or has to end. */
export async function pauseRun(
  tx: TenantTransaction,
  { id, epoch }: Pick<Run, 'id' | 'epoch'>,
  turns: Turn[],
  resumeAt: Date,
): Promise<Pause | null> {
  const { count } = await tx.run.updateMany({
    where: { id, epoch, status: 'RUNNING', cancelRequestedAt: null },
    data: { status: 'PAUSED_BUDGET', workerId: null, turns, resumeAt },
  })
  return count === 1 ? [pausedEvent('PAUSED_BUDGET', resumeAt)] : null
}

/**
 * Lets a claimed run wait for people to decide about its calls, after `changes` to them. When they have decided meanwhile, it is queued
 * again instead: 'decided'. Null, and nothing is changed, when it is no longer that claim's or has to end.
 */
export async function awaitDecisions(
  tx: TenantTransaction,
  run: Pick<Run, 'tenantId' | 'id' | 'epoch' | 'excusedClaims'>,
  changes: readonly ToolCallChange[],
): Promise<Pause | 'decided' | null> {
  const { tenantId, id, epoch } = run
  // First, as whoever decides does: what is read then of the calls is what they have decided.
  const own = await tx.$queryRaw<unknown[]>`
    select id from runs where tenant_id = ${tenantId}::uuid and id = ${id}::uuid and epoch = ${epoch}::int and status = 'RUNNING'
      and cancel_requested_at is null
    for no key update`
  if (own.length === 0) return null
  if (changes.length > 0) await changeToolCalls(tx, run, changes)
  const asks = await waitOrGoOn(tx, run, { epoch, excusedClaims: run.excusedClaims + 1 })
  return asks.length === 0 ? 'decided' : pauseOf(asks)
}

/**
 * Puts a locked run where its undecided calls, which it answers, say: it waits for the first of them to expire, or is queued when there are
 * none, as the claim `next`.
 */
export async function waitOrGoOn(
  tx: TenantTransaction,
  { tenantId, id }: Pick<Run, 'tenantId' | 'id'>,
  next: Pick<Run, 'epoch' | 'excusedClaims'>,
): Promise<ToolCallRow[]> {
  const asks = await tx.toolCall.findMany({ where: { runId: id, ...undecided }, orderBy: [{ turn: 'asc' }, { place: 'asc' }] })
  const until = firstExpiry(asks)
  // `queued_at` is when a sweeper has to look at it.
  if (until)
    await tx.run.updateMany({
      where: { id },
      data: { status: 'WAITING_APPROVAL', workerId: null, resumeAt: until, queuedAt: until },
    })
  else
    await tx.$executeRaw`
      update runs set status = 'QUEUED', worker_id = null, resume_at = null, queued_at = now(), epoch = ${next.epoch}::int,
        excused_claims = ${next.excusedClaims}::int
      where tenant_id = ${tenantId}::uuid and id = ${id}::uuid`
  return asks
}

function firstExpiry(asks: readonly ToolCallRow[]): Date | null {
  const times = asks.flatMap(({ expiresAt }) => expiresAt?.getTime() ?? [])
  return times.length === 0 ? null : new Date(Math.min(...times))
}

/** How long a run that found no session is not claimed again, in seconds: others of its tenant can be meanwhile. */
const stepAside = 2

/**
 * Puts a claimed run back into the queue, behind others, since its tenant has no session for it. The claim does not count against
 * it. Nothing is changed when it is no longer that claim's.
 */
export async function letOthersGoFirst(tx: TenantTransaction, run: Run): Promise<void> {
  await tx.$executeRaw`
    update runs set status = 'QUEUED', worker_id = null, excused_claims = excused_claims + 1,
      queued_at = now() + make_interval(secs => ${stepAside})
    where tenant_id = ${run.tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int and status = 'RUNNING'`
}
