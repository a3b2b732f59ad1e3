import { setTimeout as delay } from 'node:timers/promises'
import type { TenantId } from './ids.ts'
import type { Unsubscribe } from './ports.ts'
import { readQuota } from './quota.ts'
import { type QuotaOwner, quotaSourceOf } from './quota-terms.ts'
import type { Platform } from './scope.ts'
import { startTicker } from './ticker.ts'

/** By how many tokens a tenant's counters say more than its ledger, or less when it is negative. */
export type Drift = { tenantId: TenantId; tokens: number }

/** Looks at one tenant before what differs is believed, and the time between them in milliseconds. */
const looks = 4
const pause = 500

/**
 * Compares the month's tokens by the counters with those by the ledger. A call that is entered and not settled yet makes them differ
 * for a moment: only what stays the same from one look to the next counts. Zero while they do not come to rest.
 */
export async function measureDrift(owner: QuotaOwner): Promise<number> {
  let last: number | null = null
  for (let look = 1; look <= looks; look++) {
    const { spent, terms, now } = await readQuota(owner)
    const ledger = await owner.quotaSource.counts(terms, now)
    const again = await readQuota(owner)
    const drift = spent === again.spent ? spent - ledger.spent : null
    if (drift === 0 || (drift !== null && drift === last)) return drift
    last = drift
    if (look < looks) await delay(pause)
  }
  return 0
}

/** The tenants that were active within the last hour and whose counters differ from their ledgers. */
export async function findDrift({ catalog, data, ports }: Platform): Promise<Drift[]> {
  const found: Drift[] = []
  for (const { tenantId, limitsVersion } of await catalog.recentTenants(60 * 60_000)) {
    const quotaSource = quotaSourceOf(data.of({ tenantId, userId: null }), tenantId)
    const tokens = await measureDrift({ tenant: { id: tenantId, limitsVersion }, quotaSource, ports })
    if (tokens !== 0) found.push({ tenantId, tokens })
  }
  return found
}

/** Between two comparisons, in milliseconds. */
const reconcileEvery = 60_000

/** Has the counters that differ from their ledgers counted anew from them. What differed. */
export async function mendDrift(platform: Platform): Promise<Drift[]> {
  const found = await findDrift(platform)
  for (const { tenantId } of found) await platform.ports.admission.doubt(tenantId)
  return found
}

/**
 * Mends drift every minute and hands what there was to `onMeasured`, until the returned function is called. Any number of processes may
 * do it.
 */
export function startReconciler(
  platform: Platform,
  onMeasured: (drift: readonly Drift[]) => void,
  onError: (error: unknown) => void,
): Unsubscribe {
  return startTicker(reconcileEvery, async () => onMeasured(await mendDrift(platform)), onError)
}
