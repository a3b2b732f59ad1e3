import { Prisma } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { Principal } from './authenticate.ts'
import { inSnapshot } from './export-snapshot.ts'
import type { TenantId } from './ids.ts'
import { checkRange, type Ledger, ledgerOf } from './ledger.ts'
import type { DateRange } from './ledger-sums.ts'

/** A row of the ledger: a model call, or what corrects one. `costNanos` is in nano-units (10⁻⁹) of the currency. */
export type LedgerRow = {
  id: string
  createdAt: Date
  model: string
  inputTokens: number
  cachedInputTokens: number
  outputTokens: number
  reasoningTokens: number
  estimated: boolean
  costNanos: bigint
  currency: string
  turn: number
  attempt: number
  /** 0 for the call itself; its corrections are counted from 1. */
  correction: number
  correctsId: string | null
  priceId: string | null
  tenantPriceId: string | null
} & Partial<CallOrigin>

/** Where a call came from: the tenant's own business, which operators are not told. */
export type CallOrigin = {
  conversationId: string
  runId: string
  /** Null for the tenant's staff, and for users who were erased. */
  userId: string | null
  agentId: string
  configVersion: number
}

/** A ledger, and whoever it is for. */
export type ReadableLedger = Ledger & { tellsOrigin: boolean }

/** Rows that are read, and held in memory, at a time. */
const batch = 1_000

/**
 * The ledger that the principal may export: that of their own tenant for staff, any that they name for operators. Throws as `ledgerOf`
 * does.
 */
export async function exportableLedger(principal: Principal, tenantId?: string | null): Promise<ReadableLedger> {
  return { ...(await ledgerOf(principal, tenantId)), tellsOrigin: principal.kind === 'tenant' }
}

/**
 * Hands the rows of the ledger in the range to `take`, oldest first, some at a time, waiting for each: all as they are at one moment.
 * Where there are none, hands over none, once. Throws a ValidationProblem as `checkRange` does, TooManyExports before anything is handed over, and what `take` throws.
 */
export async function sendLedger(
  ledger: ReadableLedger,
  range: DateRange,
  take: (rows: readonly LedgerRow[]) => Promise<void>,
): Promise<void> {
  checkRange(range, ['to'])
  const { db, tenantId, tellsOrigin } = ledger
  // Whoever operates the platform waits for no tenant.
  await inSnapshot(db, tenantId, tellsOrigin ? 'ledger' : 'ledger for operators', async (tx) => {
    let after: Place = { createdAt: range.from, id: first }
    for (;;) {
      const rows = await readRows(tx, tenantId, { after, before: range.to, tellsOrigin })
      if (rows.length > 0 || after.id === first) await take(rows)
      const last = rows.at(-1)
      if (!last || rows.length < batch) return
      after = last
    }
  })
}

/** Where a row stands in the ledger. */
type Place = Pick<LedgerRow, 'createdAt' | 'id'>

/** Before the id of every row. */
const first = '00000000-0000-0000-0000-000000000000'

type Stretch = { after: Place; before: Date; tellsOrigin: boolean }

function readRows(tx: TenantTransaction, tenantId: TenantId, { after, before, tellsOrigin }: Stretch): Promise<LedgerRow[]> {
  const origin = tellsOrigin
    ? Prisma.sql`, u.conversation_id as "conversationId", u.run_id as "runId", p.user_id as "userId", u.agent_id as "agentId",
        u.config_version as "configVersion"`
    : Prisma.empty
  const users = tellsOrigin
    ? Prisma.sql`left join user_pseudonyms p on p.tenant_id = u.tenant_id and p.id = u.user_pseudonym`
    : Prisma.empty
  // The index knows the time alone, hence the comparison with it beside that with both.
  return tx.$queryRaw<LedgerRow[]>`
    select u.id, u.created_at as "createdAt", u.model, u.input_tokens as "inputTokens", u.cached_input_tokens as "cachedInputTokens",
      u.output_tokens as "outputTokens", u.reasoning_tokens as "reasoningTokens", u.estimated, u.cost_nanos as "costNanos", u.currency,
      u.turn, u.attempt, u.correction, u.corrects_id as "correctsId", u.price_id as "priceId", u.tenant_price_id as "tenantPriceId"
      ${origin}
    from usage_records u ${users}
    where u.tenant_id = ${tenantId}::uuid and u.created_at >= ${after.createdAt}::timestamptz
      and (u.created_at, u.id) > (${after.createdAt}::timestamptz, ${after.id}::uuid) and u.created_at < ${before}::timestamptz
    order by u.created_at, u.id
    limit ${batch}`
}
