import { v5 as uuidOf } from 'uuid'
import type { Credit } from '../data/generated/client.ts'
import { auditRow } from './audit.ts'
import type { OperatorScope } from './authenticate.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { checkIdempotencyKey, keyUsedOtherwise } from './idempotency.ts'
import { defaultCurrency } from './pricing.ts'
import { presentTenant } from './tenant.ts'
import { cleanText } from './text.ts'

export type GrantCreditInput = {
  tenantId: string
  /** Millionths of the currency unit. */
  amountMicros: bigint
  reason: string
  idempotencyKey: string
}

/** A million dollars. Beyond it a number is a typing error. */
const most = 1_000_000_000_000n

/**
 * Gives a tenant money off the invoice of this month. The same call again, by its key, gives nothing more. Throws NotFound, also for a
 * tenant that was erased, a ValidationProblem for an amount that is not positive or absurd, and a Conflict when the key came with
 * another input. For operators.
 */
export async function grantCredit(scope: OperatorScope, input: GrantCreditInput): Promise<{ credit: Credit }> {
  const { catalog, operator, ports } = scope
  const { id: tenantId } = await presentTenant(scope, input.tenantId)
  const { amountMicros } = input
  if (amountMicros <= 0n || amountMicros > most)
    throw new ValidationProblem(['amountMicros'], `The amount must be from 1 to ${most.toLocaleString('en')} micro-units.`)
  const reason = cleanText('reason', input.reason, { max: 1_000 })
  const key = checkIdempotencyKey(input.idempotencyKey)
  const credit: Credit = {
    // By the key, so that two equal calls are one credit, wherever the tenant is.
    ...{ id: uuidOf(`grantCredit ${key}`, tenantId), tenantId, amountNanos: amountMicros * 1_000n },
    ...{ currency: defaultCurrency, reason, createdAt: new Date(ports.now()) },
  }
  const details = { amountMicros: Number(amountMicros), currency: credit.currency, reason }
  const entry = { action: 'grantCredit', subject: 'Credit' as const, subjectId: credit.id, details }
  const stored = await catalog.prices.grant(credit, auditRow(tenantId, { kind: 'OPERATOR', ...operator }, entry, ports.now()))
  if (!stored) throw new NotFound('tenant')
  if (stored.amountNanos !== credit.amountNanos || stored.reason !== reason) throw keyUsedOtherwise()
  return { credit: stored }
}
