import type { QuotaLimit } from '../../src/data/generated/enums.ts'
import { setQuotaOverride } from '../../src/domain/quota-override.ts'
import { signInOperator } from './operator.ts'
import type { Story, TenantStory } from './story.ts'

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
