import type { Run } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { RunPaused } from './run-event.ts'
import type { Turn } from './run-turn.ts'

/** How its followers are told that a run waits for budget. */
export function pausedEvent(resumeAt: Date): RunPaused {
  return { type: 'RunPaused', status: 'PAUSED_BUDGET', resumeAt: resumeAt.toISOString() }
}

/** Lets a claimed run wait for budget. False, and nothing is changed, when it is no longer that claim's or has to end. */
export async function pauseRun(
  tx: TenantTransaction,
  { id, epoch }: Pick<Run, 'id' | 'epoch'>,
  turns: Turn[],
  resumeAt: Date,
): Promise<boolean> {
  const { count } = await tx.run.updateMany({
    where: { id, epoch, status: 'RUNNING', cancelRequestedAt: null },
    data: { status: 'PAUSED_BUDGET', workerId: null, turns, resumeAt },
  })
  return count === 1
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
