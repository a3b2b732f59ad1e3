import type { QuotaLimit } from '../../src/data/generated/enums.ts'
import { setQuotaOverride } from '../../src/domain/quota-override.ts'
import { signInOperator } from './operator.ts'
import type { TestDatabase } from './postgres.ts'
import type { Story, TenantStory } from './story.ts'
import { asAdmin } from './tenant-rows.ts'

/** A new tenant with these limits in the place of its plan's. */
export async function limitedTenant(story: Story, limits: Partial<Record<QuotaLimit, number>>): Promise<TenantStory> {
  const tenant = await story.tenant()
  await setLimits(story, tenant.tenant.id, limits)
  return tenant
}

/** Gives the tenant these limits in the place of its plan's. Scopes that were signed in before do not know of it. */
export async function setLimits(story: Story, tenantId: string, limits: Partial<Record<QuotaLimit, number>>): Promise<void> {
  const operator = await signInOperator(story)
  for (const [limit, max] of Object.entries(limits)) {
    await setQuotaOverride(operator, { tenantId, limit: limit as QuotaLimit, max: BigInt(max), reason: 'A test.' })
  }
}

/** Lets every tenant of the database use as much as tests ever do, whatever its plan. */
export async function liftLimits(database: Pick<TestDatabase, 'adminUrl'>): Promise<void> {
  await asAdmin(database, (admin) =>
    admin.query(
      'update plans set messages_per_minute = 1000000, messages_per_day = 1000000, concurrent_sessions = 10000, monthly_tokens = 1000000000',
    ),
  )
}
