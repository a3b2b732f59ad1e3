import type { OperatorCall } from '../data/tenant-register.ts'
import type { OperatorScope } from './authenticate.ts'
import { checkIdempotencyKey, hashInput, idempotencyTtl, keyUsedOtherwise } from './idempotency.ts'

/** The operator's call of `mutation` under a key; null without a key. Throws a ValidationProblem for a malformed one. */
export function operatorCall(
  scope: OperatorScope,
  mutation: string,
  key: string | null | undefined,
  input: unknown,
): OperatorCall | null {
  if (key === null || key === undefined) return null
  const now = scope.ports.now()
  return {
    slot: { operatorId: scope.operator.id, mutation, key: checkIdempotencyKey(key) },
    inputHash: hashInput(input),
    createdAt: new Date(now),
    forgottenBefore: new Date(now - idempotencyTtl),
  }
}

/** The id of what an equal call made within 24 hours; null when there was none. Throws a Conflict when its input was another. */
export async function earlierResult(scope: OperatorScope, call: OperatorCall | null): Promise<string | null> {
  const earlier = call && (await scope.catalog.tenants.findCall(call.slot))
  if (!earlier || earlier.createdAt <= call.forgottenBefore) return null
  if (Buffer.compare(earlier.inputHash, call.inputHash) !== 0) throw keyUsedOtherwise()
  return earlier.resultId
}
