import type { Run, ToolCall as ToolCallRow } from '../data/generated/client.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { recordAudit } from './audit.ts'
import { Conflict, NotFound } from './errors.ts'
import { isUuid, type TenantId } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import type { Ports } from './ports.ts'
import { waitOrGoOn } from './run-pause.ts'
import { tellResumed } from './run-resume.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'
import { isUndecided, undecided } from './tool-ledger.ts'

/** A tool call that a person has to decide about, or has decided about. */
export type Approval = ToolCallRow

/** EXPIRED: nobody decided in time. CANCELLED: the run ended before anybody did. */
export type ApprovalStatus = 'PENDING' | 'APPROVED' | 'REJECTED' | 'EXPIRED' | 'CANCELLED'

export type Decision = {
  approvalId: string
  /** The hash of the arguments that whoever decides has seen. */
  argumentsHash: string
  reason?: string | null
}

/** Most bytes of a reason. */
const longestReason = 1_000

export function approvalStatus(approval: Approval): ApprovalStatus {
  if (isUndecided(approval)) return 'PENDING'
  if (approval.status === 'REJECTED' || approval.status === 'EXPIRED') return approval.status
  return approval.decidedAt ? 'APPROVED' : 'CANCELLED'
}

/** What waits for a person to decide, oldest first. Throws ValidationProblem as `paginate` does. For members and admins. */
export async function listApprovals(scope: Scope, page: PageArgs): Promise<Page<Approval>> {
  requireRole(scope, 'MEMBER')
  return paginate(page, { direction: 'asc' }, (where, orderBy, take) =>
    scope.db.toolCall.findMany({ where: { ...where, ...undecided }, orderBy, take }),
  )
}

/** Null when there is no such call, or it never asked anybody. For members and admins. */
export async function findApproval(scope: Scope, id: string): Promise<Approval | null> {
  requireRole(scope, 'MEMBER')
  return isUuid(id) ? scope.db.toolCall.findFirst({ where: { id, expiresAt: { not: null } } }) : null
}

/**
 * Lets a tool call be made that waits for a person. Once nothing of its turn waits any more, the run goes on. Repeating it changes nothing.
 * A call that may have been made already is made again only with `mayRepeat`. Throws NotFound, a ValidationProblem for the reason, and
 * Conflict when the arguments are not those of `argumentsHash`, when it was decided otherwise, and when it is too late. For members and
 * admins.
 */
export async function approveToolCall(
  scope: Scope,
  { mayRepeat, ...decision }: Decision & { mayRepeat?: boolean | null },
): Promise<{ approval: Approval }> {
  return decide(scope, decision, 'APPROVED', (call) => {
    if (call.status === 'AMBIGUOUS' && !mayRepeat)
      throw new Conflict('The call may have been made already. Approve it with mayRepeat if it can be made again.')
    return { status: 'APPROVED' as const }
  })
}

/**
 * Keeps a tool call that waits for a person from being made, or from being made again; the model is told, with the reason. Otherwise as
 * `approveToolCall`.
 */
export async function rejectToolCall(scope: Scope, decision: Decision): Promise<{ approval: Approval }> {
  return decide(scope, decision, 'REJECTED', (call, reason) => ({
    status: 'REJECTED' as const,
    result: `${call.startedAt ? unknownAndRejected : rejected}${reason === null ? '' : ` They said: ${reason}`}`,
    finishedAt: new Date(scope.ports.now()),
  }))
}

const rejected = 'A person decided that this call is not to be made.'
const unknownAndRejected = 'It is not known whether this call took effect, and a person decided that it is not to be made again.'
const expired = 'Nobody decided in time whether this call is to be made, so it was not made.'
const unknownAndExpired = 'It is not known whether this call took effect, and nobody decided in time whether to make it again.'

type Verdict = Pick<Partial<ToolCallRow>, 'result' | 'finishedAt'> & { status: 'APPROVED' | 'REJECTED' }

async function decide(
  scope: Scope,
  { approvalId, argumentsHash, reason: given }: Decision,
  status: Verdict['status'],
  verdictOf: (call: ToolCallRow, reason: string | null) => Verdict,
): Promise<{ approval: Approval }> {
  const asked = await findApproval(scope, approvalId)
  if (!asked) throw new NotFound('approval')
  const reason = given == null ? null : cleanText('reason', given, { max: longestReason })
  const decision = scope.db.$transaction(async (tx) => {
    // First the run: two who decide about its last two calls do so one after the other.
    const run = await lockRun(tx, scope.tenant.id, asked.runId)
    const call = await tx.toolCall.findFirst({ where: { id: approvalId } })
    if (!run || !call) throw new NotFound('approval')
    if (call.argumentsHash !== argumentsHash) throw new Conflict('The arguments are not those that were decided about.')
    const standing = approvalStatus(call)
    if (standing === status) return null
    if (standing !== 'PENDING') throw new Conflict(tooLate[standing])
    const now = scope.ports.now()
    if (call.expiresAt && call.expiresAt.getTime() <= now) throw new Conflict(tooLate.EXPIRED)
    const verdict = verdictOf(call, reason)
    const decided = { decidedAt: new Date(now), decidedBy: scope.actor.name, reason }
    await tx.toolCall.updateMany({ where: { id: approvalId }, data: { ...verdict, ...decided } })
    await recordAudit(scope, tx, {
      action: status === 'APPROVED' ? 'approveToolCall' : 'rejectToolCall',
      ...{ subject: 'Approval', subjectId: approvalId },
      details: { tool: call.name, argumentsHash, mayHaveHappened: call.startedAt !== null },
    })
    return goOn(tx, run)
  })
  const resumed = await decision.catch(async (error) => {
    await unlocked(scope)
    throw error
  })
  await (resumed ? tellResumed(scope, resumed) : unlocked(scope))
  return { approval: (await findApproval(scope, approvalId)) ?? asked }
}

/** Whoever looked for a run to claim meanwhile passed over the one that was locked, and that somebody else may just have queued. */
async function unlocked({ tenant, ports }: Scope): Promise<void> {
  await Promise.allSettled([ports.runQueue.wake(tenant.id)])
}

const tooLate: Record<Exclude<ApprovalStatus, 'PENDING'>, string> = {
  APPROVED: 'The call was approved already.',
  REJECTED: 'The call was rejected already.',
  EXPIRED: 'Nobody decided in time, so the call counts as rejected.',
  CANCELLED: 'The run ended before the call was made.',
}

/** Whose run it is: all rows of a tenant. */
type Owner = { tenant: { id: TenantId }; db: TenantDb; ports: Ports }

/** Has calls of a waiting run that nobody decided about in time count as rejected, and lets it go on if that was all it waited for. */
export async function expireRequests(owner: Owner, runId: string): Promise<void> {
  const { tenant, db } = owner
  const resumed = await db.$transaction(async (tx) => {
    const run = await lockRun(tx, tenant.id, runId)
    if (run?.status !== 'WAITING_APPROVAL') return null
    // By the clock of the database, which says that it is time.
    await tx.$executeRaw`
      update tool_calls set status = 'EXPIRED', finished_at = now(), decided_at = now(),
        result = case when started_at is null then ${expired} else ${unknownAndExpired} end
      where tenant_id = ${tenant.id}::uuid and run_id = ${runId}::uuid and finished_at is null and decided_at is null
        and expires_at <= now()`
    return goOn(tx, run)
  })
  if (resumed) await tellResumed(owner, resumed)
}

async function lockRun(tx: TenantTransaction, tenantId: string, id: string): Promise<Run | null> {
  await tx.$queryRaw`select id from runs where tenant_id = ${tenantId}::uuid and id = ${id}::uuid for no key update`
  return tx.run.findFirst({ where: { id } })
}

/** The run as it was queued again, as a claim of its own, as which its followers are told. Null when it does not wait, or still does. */
async function goOn(tx: TenantTransaction, run: Run): Promise<Run | null> {
  if (run.status !== 'WAITING_APPROVAL') return null
  const epoch = run.epoch + 1
  const asks = await waitOrGoOn(tx, run, { epoch, excusedClaims: epoch })
  return asks.length === 0 ? { ...run, epoch } : null
}
