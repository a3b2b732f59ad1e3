import { cipherOf, localPlatformUrl, localSecretsOf, type Progress } from './app.ts'
import { type Config, ConfigError } from './config.ts'
import { isPostgresUrl } from './config-values.ts'
import { Catalog } from './data/catalog.ts'
import { migrate } from './data/migrate.ts'
import { isOutage } from './data/outage.ts'
import { keepUp } from './data/placement-upkeep.ts'
import { TenantMover } from './data/tenant-move.ts'

/** `bulkhead migrate`: the database of DATABASE_URL, then each that single tenants have to themselves. */
export async function migrateDatabase(config: Config, progress: Progress): Promise<void> {
  if (config.database.kind === 'embedded' || config.database.adminUrl === null) {
    throw new ConfigError(
      'DATABASE_ADMIN_URL is not set. Set it, and DATABASE_URL, to the database to migrate. The embedded one migrates itself.',
    )
  }
  const { appUrl, adminUrl } = config.database
  const secrets = await localSecretsOf(config)
  const platformUrl = config.database.platformUrl ?? localPlatformUrl(appUrl, secrets)
  progress(outcomeOf('The database', await migrate({ adminUrl, appUrl, platformUrl, onProgress: progress })))

  await using opened = new AsyncDisposableStack()
  const cipher = cipherOf(config, secrets)
  const catalog = new Catalog({ connectionString: platformUrl, cipher })
  opened.defer(() => catalog.close())
  const upkeep = await keepUp(catalog.placements, { migrateLike: { appUrl, platformUrl }, cipher, onProgress: progress })
  for (const { name, applied, problem } of upkeep) {
    progress(problem ? `${name} failed: ${problem.message}` : outcomeOf(name, { applied }))
  }
  const failed = upkeep.filter(({ problem }) => problem !== null)
  if (failed.length > 0) throw new ConfigError(`Not migrated: ${failed.map(({ name }) => name).join(', ')}. Run it again.`)
}

function outcomeOf(name: string, { applied }: { applied: string[] }): string {
  if (applied.length === 0) return `${name} is up to date.`
  return `${name}: applied ${applied.length} migration${applied.length === 1 ? '' : 's'}.`
}

/** Where to: another database, the one that tenants share, or nowhere, since the move is to be undone. */
export type Destination = { kind: 'database'; adminUrl: string } | { kind: 'pooled' } | { kind: 'abort' }

/** `bulkhead tenant place`. */
export async function placeTenant(config: Config, tenant: string, to: Destination, progress: Progress): Promise<void> {
  const { database } = config
  if (database.kind === 'embedded')
    throw new ConfigError('DATABASE_URL is not set. Tenants of the embedded database cannot be moved out of it.')
  if (to.kind === 'database' && !isPostgresUrl(to.adminUrl))
    throw new ConfigError("--database must be an administrator's URL that starts with postgres:// or postgresql://.")
  const secrets = await localSecretsOf(config)
  const { appUrl } = database
  const mover = new TenantMover({
    ...{ appUrl, platformUrl: database.platformUrl ?? localPlatformUrl(appUrl, secrets) },
    ...{ cipher: cipherOf(config, secrets), strict: config.production, onProgress: progress },
  })
  try {
    if (to.kind === 'abort') await mover.abort(tenant)
    else await mover.place(tenant, to.kind === 'database' ? to.adminUrl : null)
  } catch (error) {
    if (isOutage(error))
      throw new ConfigError('A database cannot be reached. Check that all are running, and run the command again.', {
        cause: error,
      })
    throw error
  } finally {
    await mover.close()
  }
}
