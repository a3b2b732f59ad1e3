import type { QuotaLimit } from '../../src/data/generated/enums.ts'
import type { TestDatabase } from './postgres.ts'
import { asAdmin } from './tenant-rows.ts'

/** How many runs a tenant has at once while its budget is spent. */
export const overspendRuns = Number(process.env['OVERSPEND_RUNS'] ?? 200)

/** Limits a tenant to so much, from the next time on that its limits are read. */
export async function limitTo(
  database: TestDatabase,
  tenantId: string,
  limits: Partial<Record<QuotaLimit, number>>,
): Promise<void> {
  await asAdmin(database, async (admin) => {
    for (const [limit, max] of Object.entries(limits)) {
      await admin.query(
        `insert into quota_overrides (tenant_id, "limit", max, reason) values ($1, $2, $3, 'test')
         on conflict (tenant_id, "limit") do update set max = excluded.max`,
        [tenantId, limit, max],
      )
    }
    await admin.query('update tenants set limits_version = limits_version + 1 where id = $1', [tenantId])
  })
}
