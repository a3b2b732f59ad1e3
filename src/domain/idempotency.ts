import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { Conflict, ValidationProblem } from './errors.ts'
import type { TenantId } from './ids.ts'
import type { Ports } from './ports.ts'

/** How long a key is remembered. Milliseconds. */
export const idempotencyTtl = 24 * 60 * 60_000

/** One call of a mutation. `key` is the client's; without one the call is performed every time. */
export type IdempotentCall = { mutation: string; key: string | null | undefined; input: unknown }

/**
 * Stores `resultId` under the call's key, in the transaction of the call's effect. Call it first in that transaction:
 * an equal call that runs at the same time then waits here, before it does any work.
 */
type Remember = (tx: TenantTransaction, resultId: string) => Promise<void>

/**
 * Waits a moment for the result of an equal call that is known to be under way, so that a crowd of them does not queue for
 * transactions. Whoever resolves it may be the one to have the effect after all.
 */
type AwaitEqual = () => Promise<void>

/** Who calls, in which tenant. */
export type Caller = { actor: { id: string }; tenant: { id: TenantId }; db: TenantDb; ports: Pick<Ports, 'now'> }

export type Effect<T> = {
  /** Has the effect, all of it in the one transaction that `remember` is called in. */
  perform(remember: Remember, awaitEqual: AwaitEqual): Promise<T>
  /** Answers again what the call answered whose result has this id. */
  replay(resultId: string): Promise<T>
}

/**
 * Has the effect at most once for each key of the actor and mutation within 24 hours, however many equal calls arrive and
 * however close together. Later ones get the first one's answer. Throws a Conflict when the key came with another input
 * (absent and null are the same), and a ValidationProblem when it is not 1 to 255 visible ASCII characters.
 */
export async function idempotent<T>(scope: Caller, call: IdempotentCall, effect: Effect<T>): Promise<T> {
  const { mutation, key } = call
  if (key === null || key === undefined) return effect.perform(forget, forget)
  const slot = { actor: scope.actor.id, mutation, key: checkIdempotencyKey(key) }
  const inputHash = hashInput(call.input)
  const now = scope.ports.now()
  const known = await scope.db.idempotencyKey.findFirst({ where: slot })
  const expired = known !== null && known.createdAt.getTime() <= now - idempotencyTtl
  if (known && !expired) {
    if (!inputHash.equals(known.inputHash)) throw keyUsedOtherwise()
    return effect.replay(known.resultId)
  }

  const remember: Remember = async (tx, resultId) => {
    if (expired) await tx.idempotencyKey.deleteMany({ where: { ...slot, createdAt: known.createdAt } })
    const row = { ...slot, tenantId: scope.tenant.id, inputHash, resultId, createdAt: new Date(now) }
    // Waits for an equal call that has stored its row and not committed yet.
    const { count } = await tx.idempotencyKey.createMany({ data: row, skipDuplicates: true })
    if (count === 0) throw new LostRace()
  }
  const awaitEqual: AwaitEqual = async () => {
    for (const pause of pauses) {
      await delay(pause)
      const row = await scope.db.idempotencyKey.findFirst({ where: slot })
      if (row && row.createdAt.getTime() > now - idempotencyTtl) throw new LostRace()
    }
  }
  try {
    return await effect.perform(remember, awaitEqual)
  } catch (error) {
    // The winner has committed, so this time its row is found.
    if (error instanceof LostRace) return idempotent(scope, call, effect)
    throw error
  }
}

const forget = async () => undefined

/** Between looks for the result of an equal call, in milliseconds. */
const pauses = [10, 30, 80, 200, 400]

/** Rolls the transaction back: an equal call committed first. Never leaves this file. */
class LostRace extends Error {}

/** `key` when it is 1 to 255 visible ASCII characters; else throws a ValidationProblem. */
export function checkIdempotencyKey(key: string): string {
  if (/^[!-~]{1,255}$/.test(key)) return key
  throw new ValidationProblem(['idempotencyKey'], 'The idempotency key must be 1 to 255 visible ASCII characters.')
}

export function keyUsedOtherwise(): Conflict {
  return new Conflict('The idempotency key was used with another input.')
}

/** SHA-256 of the input's JSON, whatever the order of its fields. */
export function hashInput(input: unknown): Buffer<ArrayBuffer> {
  const canonical = JSON.stringify(input ?? null, (_name, value: unknown) => {
    if (typeof value === 'bigint') return value.toString()
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
    const fields = Object.entries(value).filter(([, field]) => field !== null && field !== undefined)
    return Object.fromEntries(fields.sort(([a], [b]) => (a < b ? -1 : 1)))
  })
  return Buffer.from(createHash('sha256').update(canonical).digest())
}
