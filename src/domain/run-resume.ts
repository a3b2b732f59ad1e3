import type { Run } from '../data/generated/client.ts'
import { BudgetExhausted, Conflict, NotFound } from './errors.ts'
import { quotaSourceOf, seeded } from './quota-terms.ts'
import { findRun } from './run.ts'
import { logEpoch, openingEvents } from './run-log.ts'
import { isFinished } from './run-status.ts'
import { textOf, turnsOf } from './run-turn.ts'
import { requireRole, type Scope } from './scope.ts'

/**
 * Queues a run again that waits for budget. It goes on with its next turn: what was said stays said, and no model call is made twice.
 * One that is queued or under way is left alone. Throws NotFound, Conflict when it has ended or waits for something else,
 * BudgetExhausted while the month has no tokens left, and Unavailable while that cannot be told.
 */
export async function resumeRun(scope: Scope, { runId }: { runId: string }): Promise<{ run: Run }> {
  requireRole(scope, 'MEMBER')
  const run = await readRun(scope, runId)
  if (run.status === 'QUEUED' || run.status === 'RUNNING') return { run }
  if (isFinished(run)) throw new Conflict('The run has ended.')
  if (run.status !== 'PAUSED_BUDGET' || run.cancelRequestedAt) throw new Conflict('The run does not wait for budget.')
  await requireBudget(scope)

  // As a claim of its own, as which it tells the run's followers.
  const epoch = run.epoch + 1
  const { count } = await scope.db.run.updateMany({
    where: { id: run.id, epoch: run.epoch, status: 'PAUSED_BUDGET', cancelRequestedAt: null },
    data: { status: 'QUEUED', epoch, excusedClaims: epoch, resumeAt: null },
  })
  if (count === 0) return { run: await readRun(scope, runId) }
  const ref = { tenantId: scope.tenant.id, runId }
  const events = [...openingEvents(epoch, textOf(turnsOf(run))), { type: 'RunResumed' as const }]
  // Both may be lost: followers are told again by whoever claims it, and a sweeper wakes its tenant.
  await Promise.allSettled([
    scope.ports.eventLog.append(ref, logEpoch(epoch), 1, events),
    scope.ports.runQueue.wake(ref.tenantId),
  ])
  return { run: await readRun(scope, runId) }
}

async function readRun(scope: Scope, runId: string): Promise<Run> {
  const run = await findRun(scope, runId)
  if (!run) throw new NotFound('run')
  return run
}

async function requireBudget({ tenant, db, ports }: Scope): Promise<void> {
  const owner = { tenant, quotaSource: quotaSourceOf(db, tenant.id), ports }
  const { quota } = await seeded(owner, (version) => ports.admission.read(tenant.id, version))
  const { MONTHLY_TOKENS: max } = quota.terms.limits
  const remaining = Math.max(0, max - quota.spent - quota.reserved)
  if (remaining > 0) return
  throw new BudgetExhausted({ limit: 'MONTHLY_TOKENS', max, remaining, retryAt: quota.terms.month.end }, quota)
}
