import { isUuid, type TenantId, tenantIdOf } from '../domain/ids.ts'
import type { RunRef } from '../domain/ports.ts'

/**
 * What in Redis belongs to no tenant, by the beginning of its name, with the reason. Everything else is named after its tenant.
 * The values of these hold ids and nothing that a tenant wrote.
 */
export const platformKeys: Readonly<Record<'signals' | 'wakeUps' | 'modelSlots', { prefix: string; reason: string }>> = {
  signals: { prefix: '{signals}', reason: 'Every instance listens on one channel, whichever tenant a signal is about.' },
  wakeUps: { prefix: '{wake}', reason: 'Workers wait on one queue for the work of all tenants.' },
  modelSlots: { prefix: '{slots}', reason: 'All tenants share what a model takes at a time. Its keys are named by operators.' },
}

/** A run's keys. The hash tag keeps them in one slot and spreads a tenant's runs over all slots. */
export function runKeys({ tenantId, runId }: RunRef): { stream: string; channel: string } {
  return { stream: `{r:${tenantId}:${runId}}:s`, channel: `{r:${tenantId}:${runId}}:c` }
}

/** The keys of the slots that models share under `pool`, and the channel on which those that were granted are told. */
export function slotKeys(pool: string): { keys: [held: string, waiting: string, alive: string, turns: string]; channel: string } {
  const { prefix } = platformKeys.modelSlots
  const key = (kind: string) => `${prefix}:${kind}:${pool}`
  return { keys: [key('held'), key('waiting'), key('alive'), key('turns')], channel: `${prefix}:c` }
}

/** A tenant's counters, and the channel on which their changes are told. */
export function quotaKeys(tenantId: TenantId): { counters: string; channel: string } {
  return { counters: `{q:${tenantId}}:w`, channel: `{q:${tenantId}}:c` }
}

/** Whose a key or channel is: a tenant's, or null for the platform's. Throws for one that is neither, which must not be. */
export function ownerOf(name: string): TenantId | null {
  const tenantId = /^\{\w+:([^:}]+)[:}]/.exec(name)?.[1]
  if (tenantId !== undefined && isUuid(tenantId)) return tenantIdOf(tenantId)
  if (Object.values(platformKeys).some(({ prefix }) => name === prefix || name.startsWith(`${prefix}:`))) return null
  throw new Error(`The key ${name} belongs to no tenant, nor to what src/redis/key-space.ts lists.`)
}
