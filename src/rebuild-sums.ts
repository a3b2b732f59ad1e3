import type { Logger } from 'pino'
import { openDataAsItIs } from './app.ts'
import { type Config, ConfigError } from './config.ts'
import { isUuid, tenantIdOf } from './domain/ids.ts'
import { rebuildRollups } from './domain/usage-rollup.ts'

/** Has the sums of a tenant, by name or id, made anew from its ledger. Answers how many quarters of an hour the workers have to sum. */
export async function rebuildSums(config: Config, logger: Logger, named: string): Promise<number> {
  await using opened = new AsyncDisposableStack()
  const { data, catalog } = await openDataAsItIs(config, logger, opened)
  const tenant = (isUuid(named) ? await catalog.findTenant(named) : null) ?? (await catalog.findTenantByName(named))
  if (!tenant) throw new ConfigError(`There is no tenant ${named}.`)
  const id = tenantIdOf(tenant.id)
  return rebuildRollups(data.of({ tenantId: id, userId: null }), id)
}
