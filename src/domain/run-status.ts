import type { RunStatus } from '../data/generated/enums.ts'

/** A run reaches one of these once, and never leaves it. */
export const terminalStatuses: RunStatus[] = ['COMPLETED', 'FAILED', 'CANCELLED', 'INTERRUPTED']

/** Unfinished, and no worker is at it. */
export const waitingStatuses: RunStatus[] = ['QUEUED', 'WAITING_APPROVAL', 'PAUSED_BUDGET']

export function isFinished({ status }: { status: RunStatus }): boolean {
  return terminalStatuses.includes(status)
}
