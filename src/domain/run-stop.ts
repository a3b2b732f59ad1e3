import type { Run } from '../data/generated/client.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { settleCalls } from './call-attempt.ts'
import { settle } from './escrow.ts'
import type { TenantId } from './ids.ts'
import type { RunRef } from './ports.ts'
import { endingOf, endRun } from './run-ending.ts'
import type { RunFailure } from './run-event.ts'
import { logEpoch, openingEvents } from './run-log.ts'
import { waitingStatuses } from './run-status.ts'
import { turnsOf } from './run-turn.ts'
import type { Scope } from './scope.ts'

/** Whose runs these are: all rows of a tenant, or those of an end user. */
type Owner = Pick<Scope, 'tenant' | 'db' | 'ports'>

/** Which runs: all, those that were asked for with one API key, the earlier ones of a conversation, or a single one. */
type Which = { apiKeyId?: string; id?: string } | { conversationId: string; createdAt: { lt: Date } }

export const apiKeyRevoked: RunFailure = { code: 'API_KEY_REVOKED', message: 'The API key that asked for it was revoked.' }

export const tenantSuspended: RunFailure = { code: 'TENANT_SUSPENDED', message: 'The tenant was suspended.' }

/**
 * Notes on the unfinished ones among these runs that they have to end, and why. Those that have to end already keep their reason.
 * Workers look for it, and a run that waits is claimed to be ended.
 */
export async function requestStop(tx: TenantTransaction, which: Which, reason: RunFailure, at: Date): Promise<void> {
  await tx.run.updateMany({
    // By `finishedAt`, which an index answers.
    where: { ...which, finishedAt: null, cancelRequestedAt: null },
    data: { cancelRequestedAt: at, failureCode: reason.code, failureMessage: reason.message },
  })
}

/** Waiting runs that one call ends itself; workers end the rest. */
const mostEndedHere = 100

/**
 * Ends the unfinished ones among these runs, after whoever asked for them was shut out or changed their mind: workers are told, and those that wait
 * are ended here. What is lost on the way to the workers they find by themselves.
 */
export async function stopRuns(owner: Owner, which: Which, reason: RunFailure): Promise<void> {
  const { db, ports, tenant } = owner
  // Again, for those that were asked for while the others' stop was being committed.
  await requestStop(db, which, reason, new Date(ports.now()))
  const unfinished = { ...which, finishedAt: null }
  const running = await db.run.findMany({ where: { ...unfinished, status: 'RUNNING' }, select: { id: true } })
  await Promise.allSettled(running.map(({ id }) => ports.signals.publish({ type: 'CancelRun', ...refOf(owner, id) })))
  const waiting = await db.run.findMany({ where: { ...unfinished, status: { in: waitingStatuses } }, take: mostEndedHere })
  for (const run of waiting) await endWaiting(owner, run)
  if (waiting.length === mostEndedHere) await Promise.allSettled([ports.runQueue.wake(tenant.id)])
}

/**
 * Of these runs, which were stored as they were claimed, requests the stop of those whose asker was shut out meanwhile: they were not there yet when
 * all runs of the key or the tenant were stopped. Answers which those are.
 */
export async function stopShutOut(
  db: TenantDb,
  tenantId: TenantId,
  runIds: readonly string[],
  at: Date,
): Promise<ReadonlySet<string>> {
  const shutOut = await db.$queryShort<{ id: string; isRevoked: boolean }[]>`
    select r.id, k.revoked_at is not null as "isRevoked"
    from runs r join tenants t on t.id = r.tenant_id left join api_keys k on k.tenant_id = r.tenant_id and k.id = r.api_key_id
    where r.tenant_id = ${tenantId}::uuid and r.id = any (${runIds}::uuid[])
      and (k.revoked_at is not null or t.status = 'SUSPENDED')`
  for (const { id, isRevoked } of shutOut) await requestStop(db, { id }, isRevoked ? apiKeyRevoked : tenantSuspended, at)
  return new Set(shutOut.map(({ id }) => id))
}

/** Ends a run that no worker is at, as a claim of its own. Null when a worker was faster, or it had ended. */
export async function endWaiting(owner: Owner, run: Run): Promise<Run | null> {
  if (!waitingStatuses.includes(run.status)) return null
  const { db, ports } = owner
  // Those of its claims whose workers died, and which no claim follows.
  if (run.epoch > 0) await settleCalls(owner, run.id, run.epoch)
  const change = { status: 'CANCELLED' as const, epoch: run.epoch + 1, turns: turnsOf(run) }
  const { ended } = await endRun(db, run, waitingStatuses, change, ports.now())
  if (!ended) return null
  await settle(owner, { runId: run.id, calls: [], leave: ended.run.epoch })
  // It may be lost: followers also look at the run.
  const { epoch } = ended.run
  const ending = endingOf(ended)
  const events = [...openingEvents(epoch, ending.text), ending.event]
  await Promise.allSettled([
    ports.eventLog.append(refOf(owner, run.id), logEpoch(epoch), 1, events),
    ended.isAwaited && ports.runQueue.wake(owner.tenant.id),
  ])
  return ended.run
}

function refOf({ tenant }: Owner, runId: string): RunRef {
  return { tenantId: tenant.id, runId }
}
