import { type Price, Prisma, type TenantPrice } from '../data/generated/client.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { TokenUsage } from './run-event.ts'

/** What a model's tokens cost, in nano-units of a currency per token: 1 USD per million tokens is 1,000 nano-USD. */
export type TokenPrice = { inputNanos: bigint; cachedInputNanos: bigint; outputNanos: bigint }

/** What stands for every model: in the price list the ceiling, for a tenant what was agreed for all that is not agreed one by one. */
export const everyModel = '*'

/**
 * What a tenant is charged for a model's tokens: the price list's entry, what was agreed with the tenant, and the price that comes of
 * the two, which is the tenant's own where it has one. Either may be missing, but not both.
 */
export type CallTerms = { listed: Price | null; agreed: TenantPrice | null; rates: TokenPrice; currency: string }

/**
 * What `usage` costs at `price`, in nano-units, exactly: cached input at the cached price, the rest of the input at the input
 * price, all output at the output price, hidden reasoning included.
 */
export function costNanos(
  usage: Pick<TokenUsage, 'inputTokens' | 'cachedInputTokens' | 'outputTokens'>,
  price: TokenPrice,
): bigint {
  const cached = BigInt(usage.cachedInputTokens)
  return (
    (BigInt(usage.inputTokens) - cached) * price.inputNanos +
    cached * price.cachedInputNanos +
    BigInt(usage.outputTokens) * price.outputNanos
  )
}

/** `Math.max` and `Math.min` of amounts. */
export const larger = (one: bigint, other: bigint): bigint => (one > other ? one : other)
export const smaller = (one: bigint, other: bigint): bigint => (one < other ? one : other)

/** The currency of the price list, and of what is said of nothing at all. */
export const defaultCurrency = 'USD'

/** The terms that these two come to; null when there is no price in them. */
export function termsOf(listed: Price | null, agreed: TenantPrice | null): CallTerms | null {
  const rates = ownRates(agreed) ?? listed
  return rates && { listed, agreed, rates, currency: listed?.currency ?? defaultCurrency }
}

function ownRates(agreed: TenantPrice | null): TokenPrice | null {
  if (!agreed) return null
  const { inputNanos, cachedInputNanos, outputNanos } = agreed
  if (inputNanos === null || cachedInputNanos === null || outputNanos === null) return null
  return { inputNanos, cachedInputNanos, outputNanos }
}

/**
 * What the tenant is charged for `model` at `now`, in one statement. The entry of the model comes first, then that of the model it
 * is a dated snapshot of, then that of every model. Null when there is no price, and the model may not be called.
 */
export async function termsAt(db: TenantTransaction, tenantId: TenantId, model: string, now: number): Promise<CallTerms | null> {
  const [row] = await db.$queryRaw<Record<string, unknown>[]>`
    select ${termsColumns} from (values (1)) one ${joinTerms(tenantId, Prisma.sql`${model}::text`, now)}`
  return row ? takeTerms(row) : null
}

/** SQL: the joins that give each row the entries that `termsAt` goes by, if there are any, as `listed` and `agreed`. */
export function joinTerms(tenantId: string, model: Prisma.Sql, now: number): Prisma.Sql {
  const at = new Date(now)
  // The names under which there may be a price, the most exact first.
  const names = Prisma.sql`array[${model}, regexp_replace(${model}, ${snapshotDate.source}, ''), ${everyModel}]`
  // Of each name the version that began last, unless it has ended; of what is left the most exact name.
  const inForce = (versions: Prisma.Sql) => Prisma.sql`(
      select * from (
        select distinct on (model) * from ${versions} and model = any (${names}) and valid_from <= ${at}::timestamptz
        order by model, version desc) last
      where valid_to is null or valid_to > ${at}::timestamptz
      order by array_position(${names}, model) limit 1)`
  return Prisma.sql`
    left join lateral ${inForce(Prisma.sql`prices where true`)} listed on true
    left join lateral ${inForce(Prisma.sql`tenant_prices where tenant_id = ${tenantId}::uuid`)} agreed on true`
}

/** SQL: what `takeTerms` takes of these entries. */
export const termsColumns = Prisma.sql`${columnsOf('Price', 'listed', 'listed.')}, ${columnsOf('TenantPrice', 'agreed', 'agreed.')}`

/** The terms in a row with `termsColumns`. */
export function takeTerms(row: Record<string, unknown>): CallTerms | null {
  const listed = row['listed.id'] === null ? null : takeModel<Price>('Price', row, 'listed.')
  const agreed = row['agreed.id'] === null ? null : takeModel<TenantPrice>('TenantPrice', row, 'agreed.')
  return termsOf(listed, agreed)
}

const snapshotDate = /-\d{4}-\d{2}-\d{2}$/

/** The model that this one is a dated snapshot of, or itself. */
export function undated(model: string): string {
  return model.replace(snapshotDate, '')
}
