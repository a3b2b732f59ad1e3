import { isFenced } from '../data/fence.ts'
import { isOutage } from '../data/outage.ts'
import { type Notice, type NoticeOwner, notifyAdmins } from './notification.ts'
import type { ApprovalRequested } from './run-event.ts'
import type { Pause } from './run-pause.ts'

/**
 * Tells the tenant's admins of each tool call that a person has to decide about, once for each time that it asks. Never rejects: what could
 * not be told waits all the same, for whoever looks.
 */
export async function noticeRequests(owner: NoticeOwner, pause: Pause): Promise<void> {
  const requests = pause.filter((event) => event.type === 'ApprovalRequested')
  if (requests.length === 0) return
  try {
    const tenant = await owner.db.tenant.findFirst({ select: { name: true } })
    if (!tenant) return
    await notifyAdmins(
      owner,
      requests.map((request) => noticeOf(request, tenant.name)),
    )
  } catch (error) {
    if (!isOutage(error) && !isFenced(error)) owner.ports.report(error)
  }
}

/** Without the arguments, which may repeat what an end user said. */
function noticeOf(
  { approvalId, name, argumentsHash, mayHaveHappened, expiresAt }: ApprovalRequested,
  tenantName: string,
): Notice {
  const doubt = mayHaveHappened ? ' The call may have been made already.' : ''
  return {
    kind: 'APPROVAL_REQUESTED',
    dedupeKey: `approval/${approvalId}/${expiresAt}`,
    title: `${tenantName}: a call of ${name} waits for approval`,
    body: `The agent wants to call the tool ${name}, and somebody has to decide.${doubt} It counts as rejected from ${expiresAt}.`,
    details: { tool: name, argumentsHash, mayHaveHappened, expiresAt },
  }
}
