import { billingMonth, billingMonthAt, nameOfMonth, parseMonth } from './billing-month.ts'
import type { TenantId } from './ids.ts'
import { composeInvoice, type InvoiceOwner, readClock } from './invoice.ts'
import { ledgerRows, ledgerSums } from './ledger-sums.ts'
import type { Platform } from './scope.ts'

/** By how many nano-units what is made from a month's ledger is more than it: its sums, and the lines of its invoice without margins. */
export type LedgerDrift = { sums: bigint; invoice: bigint }

/** Compares the ledger of a month, row by row, with what reports and the invoice say of it. Throws as `composeInvoice` does. */
export async function readDrift(owner: InvoiceOwner, month: string): Promise<LedgerDrift> {
  const { db, tenantId } = owner
  const { costNanos } = await composeInvoice(owner, month)
  const range = billingMonth(await readClock(db), parseMonth(month) ?? { year: 0, month: 0 })
  const [row] = await db.$queryRaw<{ sums: bigint; ledger: bigint }[]>`
    select ledger, sums - ledger as sums from
      (select coalesce(sum(cost_nanos), 0)::bigint as ledger from (${ledgerRows(tenantId, range)}) l) one,
      (select coalesce(sum(cost_nanos), 0)::bigint as sums from (${ledgerSums(tenantId, range)}) s) other`
  return { sums: row?.sums ?? 0n, invoice: costNanos - (row?.ledger ?? 0n) }
}

/** A tenant and a month of which the ledger and what is made from it differ. */
export type FoundDrift = LedgerDrift & { tenantId: TenantId; month: string }

/** Looks at a month again before what differs is believed: a call may be entered between two reads. */
const looks = 3

/**
 * Compares the months under way, and those before, of the tenants that were active within the last hour. Answers those that differ each
 * time they are looked at.
 */
export async function findLedgerDrift({
  catalog,
  data,
  ports,
}: Pick<Platform, 'catalog' | 'data' | 'ports'>): Promise<FoundDrift[]> {
  const found: FoundDrift[] = []
  for (const { tenantId } of await catalog.recentTenants(60 * 60_000)) {
    const owner = { db: data.of({ tenantId, userId: null }), tenantId, now: ports.now() }
    const current = billingMonthAt(await readClock(owner.db), owner.now)
    for (const month of [current, { ...current, month: current.month - 1 }].map(nameOfMonth)) {
      let drift: LedgerDrift = { sums: 0n, invoice: 0n }
      for (let look = 0; look < looks; look++) {
        drift = await readDrift(owner, month)
        if (drift.sums === 0n && drift.invoice === 0n) break
      }
      if (drift.sums !== 0n || drift.invoice !== 0n) found.push({ tenantId, month, ...drift })
    }
  }
  return found
}
