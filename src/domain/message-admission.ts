import { createHash } from 'node:crypto'
import type { QuotaReading } from './admission.ts'
import { BudgetExhausted, QuotaExceeded } from './errors.ts'
import { hashInput, type IdempotentCall } from './idempotency.ts'
import { newId } from './ids.ts'
import { seeded } from './quota-terms.ts'
import { noticeThresholds } from './quota-threshold.ts'
import type { Scope } from './scope.ts'

/** Tokens of output that are set aside for a message until its run holds what its first model call needs. */
const firstSlice = 512

/** What is set aside for a message of so many tokens. */
export function reserveOf(contentTokens: number): number {
  return contentTokens + firstSlice
}

/** What was done, and what the tenant has used by then. */
type Admitted<T> = { result: T; quota: QuotaReading }

/**
 * Counts a message of `contentTokens` against all the tenant's limits at once, and runs `work`, which stores it with the run of the id
 * that it is given. What `work` throws takes the message back. Equal calls under one idempotency key that arrive together count once,
 * and are given one id; for all but the first it is repeated. Throws QuotaExceeded or BudgetExhausted, and Unavailable while nobody can tell.
 */
export async function admitMessage<T>(
  scope: Scope,
  call: IdempotentCall,
  contentTokens: number,
  work: (runId: string, isRepeated: boolean) => Promise<T>,
): Promise<Admitted<T>> {
  const { tenant, ports } = scope
  const request = { runId: newId(), key: sharedKey(scope, call), contentTokens, reserve: reserveOf(contentTokens) }
  const decision = await seeded(scope, (version) => ports.admission.admit(tenant.id, { version, ...request }))
  const { quota } = decision
  if (decision.outcome === 'refused') {
    const { refusal } = decision
    throw refusal.limit === 'MONTHLY_TOKENS' ? new BudgetExhausted(refusal, quota) : new QuotaExceeded(refusal, quota)
  }
  try {
    const result = await work(decision.runId, decision.repeated)
    void noticeThresholds(scope, tenant, quota)
    return { result, quota }
  } catch (error) {
    // One that could not be taken back gives its session and tokens back with its lease; as a message it counts until the day ends.
    await Promise.allSettled([ports.admission.release(tenant.id, { ...request, runId: decision.runId })])
    throw error
  }
}

/** The same for calls that are answered alike; null for a call without a key. Says nothing of the input. */
function sharedKey({ actor }: Scope, { mutation, key, input }: IdempotentCall): string | null {
  if (key === null || key === undefined) return null
  const call = JSON.stringify([actor.id, mutation, key, hashInput(input).toString('base64')])
  return createHash('sha256').update(call).digest('base64url')
}
