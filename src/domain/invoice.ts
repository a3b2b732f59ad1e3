import type { Credit } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import type { Principal } from './authenticate.ts'
import { type BillingClock, billingMonth, type PastTimeZone, parseMonth } from './billing-month.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import type { TenantId } from './ids.ts'
import { type Ledger, ledgerOf } from './ledger.ts'
import { type DateRange, ledgerSums } from './ledger-sums.ts'
import { defaultCurrency } from './pricing.ts'
import { requireRole } from './scope.ts'

/** Calls and credits of the last moment of a month are stored by then, whichever clock they were noted by. Milliseconds. */
const settlingTime = 5 * 60_000

/** What one model cost under one price in a month, in nano-units (10⁻⁹) of the currency. */
export type InvoiceLine = {
  model: string
  /** Whether these are corrections of earlier calls, which may be of earlier months; else calls. */
  isCorrection: boolean
  calls: bigint
  /** Cached ones not included. */
  inputTokens: bigint
  cachedInputTokens: bigint
  outputTokens: bigint
  /** What a token of each kind costs. */
  rates: { inputNanos: bigint; cachedInputNanos: bigint; outputNanos: bigint }
  costNanos: bigint
  marginBasisPoints: number
  marginNanos: bigint
}

export type Invoice = {
  /** As a calendar calls it, such as 2026-11. */
  month: string
  timeZone: string
  range: DateRange
  /** Whether the month was over five minutes ago, so that nothing is added any more. */
  isFinal: boolean
  currency: string
  lines: InvoiceLine[]
  credits: Credit[]
  costNanos: bigint
  marginNanos: bigint
  creditNanos: bigint
  /** Cost and margin without the credits: negative when they are more. */
  totalNanos: bigint
}

/** Whose invoice it is, at a moment in milliseconds. */
export type InvoiceOwner = Ledger & { now: number }

/**
 * What a tenant's model calls of a month come to, line by line, with margin and credits. A month that is over always comes to the same:
 * its prices are those of its calls, what was corrected since is in the month of the correction, and another time zone moves only
 * months that have not begun. Admins read that of their own tenant, operators that of any they name. Throws a ValidationProblem for what
 * is no month, or has not begun; NotFound for a tenant that is not there, is erased, or is another's.
 */
export async function findInvoice(principal: Principal, month: string, tenantId?: string | null): Promise<Invoice> {
  return composeInvoice(await ownerOf(principal, tenantId), month)
}

async function ownerOf(principal: Principal, tenantId: string | null | undefined): Promise<InvoiceOwner> {
  const { ports } = principal.kind === 'operator' ? principal.operator : principal.scope
  if (principal.kind === 'tenant') requireRole(principal.scope, 'ADMIN')
  return { ...(await ledgerOf(principal, tenantId)), now: ports.now() }
}

/** The invoice as it is by now. Throws as `findInvoice` does. */
export async function composeInvoice({ db, tenantId, now }: InvoiceOwner, month: string): Promise<Invoice> {
  const named = parseMonth(month)
  if (!named) throw new ValidationProblem(['month'], 'Give a month as in 2026-11.')
  const clock = await readClock(db)
  const range = billingMonth(clock, named)
  if (range.from.getTime() > now) throw new ValidationProblem(['month'], 'This month has not begun.')
  const [lines, credits] = await Promise.all([
    readLines(db, tenantId, range),
    db.credit.findMany({
      where: { createdAt: { gte: range.from, lt: range.to } },
      orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    }),
  ])
  const sum = (amounts: bigint[]) => amounts.reduce((total, amount) => total + amount, 0n)
  const costNanos = sum(lines.map((line) => line.costNanos))
  const marginNanos = sum(lines.map((line) => line.marginNanos))
  const creditNanos = sum(credits.map((credit) => credit.amountNanos))
  return {
    ...{ month, timeZone: clock.timeZone, range, isFinal: range.to.getTime() + settlingTime <= now, currency: defaultCurrency },
    ...{ lines, credits, costNanos, marginNanos, creditNanos, totalNanos: costNanos + marginNanos - creditNanos },
  }
}

/** When the tenant's months begin and began. */
export async function readClock(db: TenantDb): Promise<BillingClock> {
  const tenant = await db.tenant.findFirst({ select: { timeZone: true, pastTimeZones: true } })
  if (!tenant) throw new NotFound('tenant')
  return { timeZone: tenant.timeZone, pastTimeZones: tenant.pastTimeZones as PastTimeZone[] }
}

type LineRow = Omit<InvoiceLine, 'marginNanos' | 'rates'> & InvoiceLine['rates']

async function readLines(db: TenantDb, tenantId: TenantId, range: DateRange): Promise<InvoiceLine[]> {
  const rows = await db.$queryRaw<LineRow[]>`
    select u.model, u.is_correction as "isCorrection", u.calls, u.input_tokens - u.cached_input_tokens as "inputTokens",
      u.cached_input_tokens as "cachedInputTokens", u.output_tokens as "outputTokens", u.cost_nanos as "costNanos",
      coalesce(a.input_nanos, l.input_nanos, 0) as "inputNanos",
      coalesce(a.cached_input_nanos, l.cached_input_nanos, 0) as "cachedInputNanos",
      coalesce(a.output_nanos, l.output_nanos, 0) as "outputNanos",
      coalesce(a.margin_basis_points, 0) as "marginBasisPoints"
    from (
      select model, is_correction, price_id, tenant_price_id, sum(calls)::bigint as calls, sum(input_tokens)::bigint as input_tokens,
        sum(cached_input_tokens)::bigint as cached_input_tokens, sum(output_tokens)::bigint as output_tokens,
        sum(cost_nanos)::bigint as cost_nanos
      from (${ledgerSums(tenantId, range)}) s group by model, is_correction, price_id, tenant_price_id) u
    left join prices l on l.id = u.price_id
    left join tenant_prices a on a.tenant_id = ${tenantId}::uuid and a.id = u.tenant_price_id
    order by u.model, u.is_correction, l.version nulls first, a.model nulls first, a.version`
  return rows.map(({ inputNanos, cachedInputNanos, outputNanos, ...row }) => ({
    ...row,
    rates: { inputNanos, cachedInputNanos, outputNanos },
    marginNanos: marginOf(row.costNanos, row.marginBasisPoints),
  }))
}

/** Rounded half away from zero, once for each line. */
function marginOf(costNanos: bigint, basisPoints: number): bigint {
  const exact = costNanos * BigInt(basisPoints)
  const half = exact < 0n ? -5_000n : 5_000n
  return (exact + half) / 10_000n
}
