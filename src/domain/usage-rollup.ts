import { isFenced } from '../data/fence.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { Unsubscribe } from './ports.ts'
import type { Platform } from './scope.ts'
import { startTicker } from './ticker.ts'

/** Between two looks for what has to be summed, in milliseconds. */
const lookEvery = 60_000

/**
 * Sums the ledgers of all tenants by quarters of an hour, each once it is over, and again when something was entered into it since,
 * until the returned function is called. Any number of processes may do it: each quarter is summed by one of them.
 */
export function startRollups(platform: Pick<Platform, 'catalog' | 'data'>, onError: (error: unknown) => void): Unsubscribe {
  return startTicker(lookEvery, () => sumAll(platform, onError), onError)
}

/** Sums all that is to be summed by now. `onError` is given what goes wrong with a quarter; the others are summed all the same. */
export async function sumAll(
  { catalog, data }: Pick<Platform, 'catalog' | 'data'>,
  onError: (error: unknown) => void,
): Promise<void> {
  const failed = new Set<string>()
  const nameOf = ({ tenantId, bucket }: { tenantId: TenantId; bucket: Date }) => `${tenantId} ${bucket.getTime()}`
  for (;;) {
    const found = (await catalog.quartersToSum()).filter((each) => !failed.has(nameOf(each)))
    if (found.length === 0) return
    for (const { tenantId, bucket } of found) {
      try {
        await sumQuarter(data.of({ tenantId, userId: null }), tenantId, bucket)
      } catch (error) {
        failed.add(nameOf({ tenantId, bucket }))
        // A tenant that is being moved is summed where it arrives.
        if (!isFenced(error)) onError(error)
      }
    }
  }
}

/**
 * Replaces the sums of the quarter of an hour that begins at `bucket` by those of the ledger as it is now. False, and nothing is changed,
 * when nothing was entered since it was summed.
 */
export async function sumQuarter(db: TenantDb, tenantId: TenantId, bucket: Date): Promise<boolean> {
  return db.$transaction(async (tx) => {
    // First the mark, then the ledger by a statement of its own: what is entered while the mark is being removed is seen, or marks anew.
    const marked = await tx.$executeRaw`
      delete from usage_rollups where tenant_id = ${tenantId}::uuid and bucket = ${bucket}::timestamptz and part = 0`
    if (marked === 0) return false
    await tx.$executeRaw`delete from usage_rollups where tenant_id = ${tenantId}::uuid and bucket = ${bucket}::timestamptz`
    await tx.$executeRaw`
      insert into usage_rollups (tenant_id, bucket, part, model, agent_id, config_version, price_id, tenant_price_id, currency,
        is_correction, estimated, calls, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_nanos)
      select tenant_id, ${bucket}::timestamptz, row_number() over (), model, agent_id, config_version, price_id, tenant_price_id, currency,
        correction > 0, bool_or(estimated), count(*) filter (where correction = 0),
        sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_nanos)
      from usage_records
      where tenant_id = ${tenantId}::uuid and created_at >= ${bucket}::timestamptz
        and created_at < ${bucket}::timestamptz + interval '15 minutes'
      group by tenant_id, model, agent_id, config_version, price_id, tenant_price_id, currency, correction > 0`
    return true
  })
}

/** Has all of a tenant's sums made anew from its ledger. Until they are, the ledger itself is read. Answers how many quarters that are. */
export async function rebuildRollups(db: TenantDb, tenantId: TenantId): Promise<number> {
  return db.$executeRaw`
    insert into usage_rollups (tenant_id, bucket, part)
    select tenant_id, date_bin('15 minutes', created_at, '2000-01-01 00:00:00+00') as bucket, 0 from usage_records
    where tenant_id = ${tenantId}::uuid
    union
    select tenant_id, bucket, 0 from usage_rollups where tenant_id = ${tenantId}::uuid
    on conflict (tenant_id, bucket, part) do update set part = excluded.part`
}
