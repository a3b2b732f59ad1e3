import type { Run } from '../data/generated/client.ts'
import { BudgetExhausted, Conflict, NotFound } from './errors.ts'
import type { Ports } from './ports.ts'
import { seeded } from './quota-terms.ts'
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
  if (run.status === 'WAITING_APPROVAL') throw new Conflict('The run waits for somebody to approve or reject its tool calls.')
  if (run.status !== 'PAUSED_BUDGET' || run.cancelRequestedAt) throw new Conflict('The run does not wait for budget.')
  await requireBudget(scope)

  // As a claim of its own, as which it tells the run's followers.
  const epoch = run.epoch + 1
  const { count } = await scope.db.run.updateMany({
    where: { id: run.id, epoch: run.epoch, status: 'PAUSED_BUDGET', cancelRequestedAt: null },
    data: { status: 'QUEUED', epoch, excusedClaims: epoch, resumeAt: null },
  })
  if (count === 0) return { run: await readRun(scope, runId) }
  await tellResumed(scope, { ...run, epoch })
  return { run: await readRun(scope, runId) }
}

/** Tells a run's followers that it goes on, as the claim that queued it again, and wakes its tenant. */
export async function tellResumed({ tenant, ports }: ResumedBy, run: Pick<Run, 'id' | 'epoch' | 'turns'>): Promise<void> {
  const events = [...openingEvents(run.epoch, textOf(turnsOf(run))), { type: 'RunResumed' as const }]
  // Both may be lost: followers are told again by whoever claims it, and a sweeper wakes its tenant.
  await Promise.allSettled([
    ports.eventLog.append({ tenantId: tenant.id, runId: run.id }, logEpoch(run.epoch), 1, events),
    ports.runQueue.wake(tenant.id),
  ])
}

type ResumedBy = { tenant: Pick<Scope['tenant'], 'id'>; ports: Pick<Ports, 'eventLog' | 'runQueue'> }

async function readRun(scope: Scope, runId: string): Promise<Run> {
  const run = await findRun(scope, runId)
  if (!run) throw new NotFound('run')
  return run
}

async function requireBudget(scope: Scope): Promise<void> {
  const { tenant, ports } = scope
  const { quota } = await seeded(scope, (version) => ports.admission.read(tenant.id, version))
  const { MONTHLY_TOKENS: max } = quota.terms.limits
  const remaining = Math.max(0, max - quota.spent - quota.reserved)
  if (remaining > 0) return
  throw new BudgetExhausted({ limit: 'MONTHLY_TOKENS', max, remaining, retryAt: quota.terms.month.end }, quota)
}
