import type { Run, RunStatus } from '../data/generated/client.ts'
import type { UsageRecordWhereInput } from '../data/generated/models.ts'
import { columnsOf } from '../data/model-columns.ts'
import { NotFound } from './errors.ts'
import { isUuid } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { isFinished, terminalStatuses } from './run-status.ts'
import { endWaiting } from './run-stop.ts'
import { requireRole, type Scope } from './scope.ts'
import { type RunUsage, sumCosts, sumUsage } from './usage.ts'

/** Null when there is no such run, or it is not the end user's own. */
export async function findRun(scope: Scope, id: string): Promise<Run | null> {
  requireRole(scope, 'END_USER')
  if (!isUuid(id)) return null
  const { tenant, actor, db } = scope
  // Raw: somebody waits to follow an answer that has begun.
  const [run] = await db.$queryShort<Run[]>`
    select ${columnsOf('Run', 'r')} from runs r
    where r.tenant_id = ${tenant.id}::uuid and r.id = ${id}::uuid and (${actor.userId}::text is null or r.user_id = ${actor.userId})`
  return run ?? null
}

/** Runs that were asked for and begun here a moment ago, by who asked, as they were then. */
const justAsked = new Map<string, Run>()

/** How long that is, in milliseconds. */
const aMoment = 1_000

function askedKey({ tenant, actor }: Scope, runId: string): string {
  return `${tenant.id}/${actor.id}/${runId}`
}

/** Lets who has just asked for a run that has begun follow it without another look at it. */
export function rememberRun(scope: Scope, run: Run): void {
  const key = askedKey(scope, run.id)
  justAsked.set(key, { ...run, turns: [] })
  setTimeout(() => justAsked.delete(key), aMoment).unref()
}

/** As `findRun`; for who asked for it a moment ago, as it was then. */
export async function findRunToFollow(scope: Scope, id: string): Promise<Run | null> {
  requireRole(scope, 'END_USER')
  return justAsked.get(askedKey(scope, id)) ?? findRun(scope, id)
}

/** Those of these runs that exist and may be seen, in no order. */
export async function runsByIds(scope: Scope, ids: readonly string[]): Promise<Run[]> {
  requireRole(scope, 'END_USER')
  return scope.db.run.findMany({ where: { id: { in: ids.filter(isUuid) } } })
}

export type RunFilter = { status?: RunStatus | null; conversationId?: string | null }

/** Newest first. Throws ValidationProblem as `paginate` does. */
export async function listRuns(scope: Scope, page: PageArgs, filter: RunFilter = {}): Promise<Page<Run>> {
  requireRole(scope, 'END_USER')
  const status = filter.status ?? undefined
  const conversationId = filter.conversationId ?? undefined
  return paginate(page, { direction: 'desc' }, async (where, orderBy, take) => {
    if (conversationId !== undefined && !isUuid(conversationId)) return []
    return scope.db.run.findMany({ where: { ...where, status, conversationId }, orderBy, take })
  })
}

/** What each of these runs used so far, from the ledger; zero for a run without a model call. */
export async function usageByRun(scope: Scope, runIds: readonly string[]): Promise<Map<string, RunUsage>> {
  requireRole(scope, 'END_USER')
  return sumUsage(scope.db, runIds, await ownUsage(scope))
}

/** What each conversation cost so far, in nano-units. End users see that of their own. */
export async function costByConversation(scope: Scope, conversationIds: readonly string[]): Promise<Map<string, bigint>> {
  requireRole(scope, 'END_USER')
  return sumCosts(scope.db, conversationIds, await ownUsage(scope))
}

/** Which rows of the ledger the actor may see. */
async function ownUsage({ db, actor: { userId } }: Scope): Promise<UsageRecordWhereInput> {
  if (userId === null) return {}
  const own = await db.userPseudonym.findMany({ where: { userId }, select: { id: true } })
  return { userPseudonym: { in: own.map(({ id }) => id) } }
}

/**
 * Ends a run early: at once when no worker is at it, else soon, since the worker is told. What was said is kept as the reply.
 * Cancelling it again, or when it has ended, changes nothing. Throws NotFound, also for an end user when it is another's.
 */
export async function cancelRun(scope: Scope, { runId }: { runId: string }): Promise<{ run: Run }> {
  requireRole(scope, 'END_USER')
  const asked = await readRun(scope, runId)
  if (isFinished(asked)) return { run: asked }
  const unfinished = { id: runId, status: { notIn: terminalStatuses } }
  const cancelRequestedAt = new Date(scope.ports.now())
  await scope.db.run.updateMany({ where: { ...unfinished, cancelRequestedAt: null }, data: { cancelRequestedAt } })

  const ended = await endWaiting(scope, await readRun(scope, runId))
  if (ended) return { run: ended }
  const run = await readRun(scope, runId)
  // It may be lost: workers also look for the request, and whoever claims the run sees it.
  if (!isFinished(run))
    await Promise.allSettled([scope.ports.signals.publish({ type: 'CancelRun', tenantId: scope.tenant.id, runId })])
  return { run }
}

async function readRun(scope: Scope, id: string): Promise<Run> {
  const run = await findRun(scope, id)
  if (!run) throw new NotFound('run')
  return run
}
