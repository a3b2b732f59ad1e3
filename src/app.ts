import type { Logger } from 'pino'
import { type Config, ConfigError } from './config.ts'
import { inspectDatabase } from './data/boot-gate.ts'
import { Catalog } from './data/catalog.ts'
import { startEmbeddedPostgres } from './data/embedded.ts'
import { migrate } from './data/migrate.ts'
import { isOutage } from './data/outage.ts'
import { placedPools } from './data/placed-pools.ts'
import { keepUp, type UpkeepOptions } from './data/placement-upkeep.ts'
import { TenantPool } from './data/tenant-pool.ts'
import { TenantData } from './data/tenant-scope.ts'
import { readDemoFile, writeDemoFile } from './demo-file.ts'
import { createAuthenticator } from './domain/authenticate.ts'
import { startErasureSweep } from './domain/erasure.ts'
import { OutboxWorker } from './domain/outbox.ts'
import type { Model, PlatformCipher, Ports } from './domain/ports.ts'
import { type Drift, startReconciler } from './domain/quota-drift.ts'
import { RunWorker } from './domain/run-worker.ts'
import type { DomainSettings, Platform } from './domain/scope.ts'
import { type DemoAccounts, seedDemo } from './domain/seed.ts'
import { startTicker } from './domain/ticker.ts'
import { startRollups } from './domain/usage-rollup.ts'

import { startDemoUpstream } from './llm/demo-upstream.ts'
import { createOpenAiModel } from './llm/openai-model.ts'
import { seedPrices } from './llm/prices.ts'
import { type LocalSecrets, localSecrets } from './local-secrets.ts'
import { MemoryAdmission } from './memory/admission.ts'
import { MemoryEventLog } from './memory/event-log.ts'
import { MemoryModelSlots } from './memory/model-slots.ts'
import { MemoryRunQueue } from './memory/run-queue.ts'
import { MemorySignals } from './memory/signals.ts'
import { createCourier } from './notify/courier.ts'
import { RedisAdmission } from './redis/admission.ts'
import { connectRedis } from './redis/connection.ts'
import { RedisEventLog } from './redis/event-log.ts'
import { RedisModelSlots } from './redis/model-slots.ts'
import { RedisRunQueue } from './redis/run-queue.ts'
import { RedisSignals } from './redis/signals.ts'
import { EnvelopeVault } from './secrets/envelope-vault.ts'
import { createLocalKeyProvider } from './secrets/key-provider.ts'
import { type MasterKeys, masterKeysOf } from './secrets/master-keys.ts'
import { createPlatformCipher } from './secrets/platform-cipher.ts'
import { Metrics } from './server/metrics.ts'
import { createServer } from './server/server.ts'
import { createEgress, createOperatorEgress } from './tools/egress.ts'
import { createGuardedRequest } from './tools/guarded-request.ts'
import { createToolbox } from './tools/toolbox.ts'

/** A running platform. */
export type App = {
  url: string
  /** The demo accounts, on the start that made them; null on every other. */
  demo: DemoAccounts | null
  /** Whether there are demo accounts to try things with. */
  hasDemo: boolean
  /** Where the embedded database is; null with an external one. */
  databaseDirectory: string | null
  /** Stops taking work, lets what runs come to an end or hands it back, and closes everything that was opened. */
  close(): Promise<void>
}

/** Says what a slow start is doing. */
export type Progress = (step: string) => void

/** How long sockets and runs get to come to an end when the platform stops, in milliseconds. */
const grace = 5_000

/** Between two times that the price list is brought to databases of single tenants, in milliseconds. */
const distributeEvery = 60_000

/** The one place where things are wired. Whatever it opened is closed again when a later step fails. */
export async function createApp(config: Config, logger: Logger, progress: Progress): Promise<App> {
  await using opened = new AsyncDisposableStack()
  const { data, catalog, settings, databaseDirectory } = await openData(config, logger, progress, opened)
  const ports = await openPorts(config, logger, opened)
  const onError = (error: unknown) => logger.error({ err: error }, 'Background work failed.')

  const seedable = databaseDirectory !== null
  const demo = seedable ? await seedOnce(config, { data, catalog, ports, settings }) : null

  let runs = () => 0
  const metrics = new Metrics({ token: config.metricsToken, local: !config.production, runs: () => runs() })
  if (config.role !== 'api') {
    const worker = new RunWorker({ data, catalog, ports, onError, concurrency: config.runConcurrency })
    await worker.start()
    opened.defer(() => worker.drain(grace))
    const outbox = new OutboxWorker({ data, catalog, ports, onError })
    outbox.start()
    opened.defer(() => outbox.stop())
    opened.defer(startRollups({ data, catalog }, onError))
    opened.defer(startTicker(distributeEvery, () => catalog.prices.distribute(), onError))
    opened.defer(startErasureSweep({ data, catalog, ports, settings }, onError))
    runs = () => worker.underWay
    const onMeasured = (drift: readonly Drift[]) => {
      metrics.drifted(drift.map(({ tokens }) => tokens))
      if (drift.length > 0) logger.warn({ drift }, 'Counters and ledgers differ.')
    }
    opened.defer(startReconciler({ data, catalog, ports, settings }, onMeasured, onError))
  }

  // A tenant that is erased in another process has no keys to keep here.
  opened.defer(
    await ports.signals.subscribe((signal) => {
      if (signal.type === 'AccessChanged') ports.vault.forget(signal.tenantId)
    }),
  )

  const server = createServer({
    authenticate: createAuthenticator({ data, catalog, ports, settings }),
    signals: ports.signals,
    accessVersions: (tenantIds) => catalog.tenants.accessVersions(tenantIds),
    logger,
    development: !config.production,
    api: config.role !== 'worker',
    allowedOrigins: config.allowedOrigins,
    metrics,
    isReady: () => catalog.isReachable(),
  })
  // Also when it cannot listen: it watches its sessions by then.
  opened.defer(() => server.close(grace))
  const { url } = await server.listen(config.port, config.host).catch((error) => {
    throw new ConfigError(refusedAddress(config, error), { cause: error })
  })

  const hasDemo = seedable && (await noteDemoUrl(config.dataDir, url))
  const resources = opened.move()
  return { url, demo, hasDemo, databaseDirectory, close: () => resources.disposeAsync() }
}

/** Postgres behind both walls, and the platform's catalogue. */
async function openData(config: Config, logger: Logger, progress: Progress, opened: AsyncDisposableStack) {
  const secrets = await localSecretsOf(config)
  const urls = await openDatabase(config, secrets, progress, opened)
  const onIdleError = (error: Error) => logger.warn({ err: error }, 'A database connection broke.')

  const cipher = cipherOf(config, secrets)
  const catalog = new Catalog({ connectionString: urls.platformUrl, cipher, onIdleError })
  opened.defer(() => catalog.close())
  await registerPrices(catalog, config)
  await passGate(urls.appUrl, config, logger)
  await openPlacements(catalog, { migrateLike: urls.migrated ? urls : null, cipher, onProgress: progress }, config, logger)

  const { size, ...options } = config.pool
  const openPool = (connectionString: string) => new TenantPool({ connectionString, max: size, ...options, onIdleError })
  // Connections that are shared stay open; where no tenant is any more, none shall keep its operator from dropping the database.
  const openPlaced = (connectionString: string) =>
    new TenantPool({ connectionString, max: size, ...options, shared: 0, onIdleError })
  const data = new TenantData(openPool(urls.appUrl), { elsewhere: placedPools(catalog.placements, openPlaced) })
  opened.defer(() => data.close())

  const settings: DomainSettings = {
    defaultModel: config.defaultModel,
    peppers: { current: 1, secrets: new Map([[1, config.keyPepper ?? secrets.keyPepper]]) },
    backupRetentionDays: config.backupRetentionDays,
  }
  return { data, catalog, settings, databaseDirectory: urls.directory }
}

/** The same for whoever only looks: an external database is left as it is, migrated or not. */
export function openDataAsItIs(config: Config, logger: Logger, opened: AsyncDisposableStack) {
  const { database } = config
  const own = database.kind === 'embedded' ? database : { ...database, adminUrl: null }
  return openData({ ...config, database: own }, logger, () => undefined, opened)
}

type Database = { appUrl: string; platformUrl: string; directory: string | null; migrated: boolean }

async function openDatabase(
  config: Config,
  secrets: LocalSecrets,
  progress: Progress,
  opened: AsyncDisposableStack,
): Promise<Database> {
  const { database } = config
  if (database.kind === 'embedded') {
    const embedded = await startEmbeddedPostgres({ dataDir: config.dataDir, onProgress: progress })
    opened.defer(() => embedded.stop())
    await migrate({ ...embedded, onProgress: progress })
    return { ...embedded, directory: embedded.clusterDirectory, migrated: true }
  }
  const { appUrl, adminUrl } = database
  const platformUrl = database.platformUrl ?? localPlatformUrl(appUrl, secrets)
  if (adminUrl !== null) await migrate({ adminUrl, appUrl, platformUrl, onProgress: progress })
  return { appUrl, platformUrl, directory: null, migrated: adminUrl !== null }
}

/** Development may leave the platform role's URL out: it is the application's, with a password of this data directory. */
export function localPlatformUrl(appUrl: string, { platformPassword }: LocalSecrets): string {
  const url = new URL(appUrl)
  url.username = 'bulkhead_platform'
  url.password = platformPassword
  return url.href
}

/** Production sets every secret itself; nothing is written to its disk. */
export async function localSecretsOf(config: Config): Promise<LocalSecrets> {
  return config.production ? { keyPepper: '', platformPassword: '', masterKey: '' } : localSecrets(config.dataDir)
}

/** The first statement of every start, so it also tells whether the database is there and ready. */
async function registerPrices(catalog: Catalog, { production }: Config): Promise<void> {
  try {
    // Whoever tries the platform with a model of their own shall get answers; production says itself what is not listed.
    await catalog.registerPrices(await seedPrices({ ceiling: !production }))
  } catch (error) {
    if (isOutage(error))
      throw new ConfigError(
        'The database cannot be reached. Check DATABASE_URL and DATABASE_PLATFORM_URL, and that it is running.',
      )
    throw new ConfigError(
      'The database is not set up for Bulkhead. Set DATABASE_ADMIN_URL and run `npm run migrate`; check that DATABASE_PLATFORM_URL names bulkhead_platform, with its password.',
      { cause: error },
    )
  }
}

/** Refuses a database that could not keep tenants apart; in development an outdated one is only warned of. */
async function passGate(appUrl: string, { production }: Config, logger: Logger): Promise<void> {
  const { refusals, warnings } = await inspectDatabase(appUrl).catch((cause) => {
    throw new ConfigError(`DATABASE_URL cannot be used: ${cause.message}.`, { cause })
  })
  const [refusal] = production ? [...refusals, ...warnings] : refusals
  if (refusal !== undefined) throw new ConfigError(`This database would not keep tenants apart. ${refusal}`)
  for (const warning of warnings) logger.warn(warning)
}

/** The cipher for what the platform itself has to keep. */
export function cipherOf(config: Config, secrets: LocalSecrets): PlatformCipher {
  return createPlatformCipher(masterKeysIn(config, secrets))
}

function masterKeysIn({ masterKey, oldMasterKeys }: Config, secrets: LocalSecrets): MasterKeys {
  return masterKeysOf(masterKey ?? secrets.masterKey, oldMasterKeys)
}

/** Refuses a database of single tenants that could not keep them apart. One that is not to be had keeps nobody else from starting. */
async function openPlacements(catalog: Catalog, options: UpkeepOptions, { production }: Config, logger: Logger): Promise<void> {
  await catalog.placements.start()
  const outcomes = await keepUp(catalog.placements, options).catch((error) => {
    logger.error({ err: error }, 'The databases of single tenants cannot be reached: their URLs cannot be read.')
    return []
  })
  for (const { name, refusals, warnings, problem } of outcomes) {
    const [refusal] = production ? [...refusals, ...warnings] : refusals
    if (refusal !== undefined) throw new ConfigError(`The database ${name} would not keep tenants apart. ${refusal}`)
    for (const warning of warnings) logger.warn(`${name}: ${warning}`)
    if (problem) logger.error({ err: problem }, `The database ${name} cannot be used, and its tenants cannot be served.`)
  }
}

export async function openPorts(config: Config, logger: Logger, opened: AsyncDisposableStack): Promise<Ports> {
  const onError = (error: unknown) => logger.error({ err: error }, 'Background work failed.')
  const masterKeys = masterKeysIn(config, await localSecretsOf(config))
  const vault = new EnvelopeVault(createLocalKeyProvider(masterKeys))
  const egress = createEgress(config.egress)
  const usageFeed = config.usageFeed && { ...config.usageFeed, egress: createOperatorEgress() }
  const courier = createCourier({ egress, mail: config.mail, usageFeed, warn: (message) => logger.warn(message) })
  const common = {
    ...{ model: await openModel(config, opened), tools: createToolbox({ egress, now: Date.now }), vault, egress, courier },
    ...{ report: onError, now: Date.now },
  }
  if (config.redis === null) {
    return {
      ...common,
      eventLog: new MemoryEventLog({ onError }),
      signals: new MemorySignals({ onError }),
      runQueue: new MemoryRunQueue({ onError }),
      modelSlots: new MemoryModelSlots(config.modelConcurrency),
      admission: new MemoryAdmission({ onError }),
    }
  }
  const redis = await connectRedis(config.redis, { onError })
  opened.defer(() => redis.close())
  return {
    ...common,
    eventLog: new RedisEventLog(redis),
    signals: new RedisSignals(redis),
    runQueue: new RedisRunQueue(redis),
    modelSlots: new RedisModelSlots(redis, config.modelConcurrency, new MemoryModelSlots(config.modelConcurrency)),
    admission: new RedisAdmission(redis),
  }
}

/** Where OpenAI is: what a tenant's own key is for that says nothing else. */
const openAiUrl = 'https://api.openai.com/v1'

/** The configured endpoint; in development without one, the scripted; in production without one, none but those of tenants. */
async function openModel(config: Config, opened: AsyncDisposableStack): Promise<Model> {
  const options = { limits: config.upstreamSilence, sendElsewhere: createGuardedRequest(config.egress) }
  if (config.upstream) return createOpenAiModel({ ...options, ...config.upstream })
  if (config.production) return createOpenAiModel({ ...options, baseUrl: openAiUrl, apiKey: null })
  const demo = await startDemoUpstream()
  opened.defer(() => demo.close())
  return createOpenAiModel({ ...options, baseUrl: demo.url, apiKey: 'demo' })
}

/**
 * Makes the demo accounts on the first start, and writes their keys down at once: they are never shown again, whatever becomes of
 * this start. Null on every other.
 */
async function seedOnce({ dataDir, host, port }: Config, platform: Platform): Promise<DemoAccounts | null> {
  if (await readDemoFile(dataDir)) return null
  const demo = await seedDemo(platform)
  if (demo.tenants.length === 0) return null
  await writeDemoFile(dataDir, { ...demo, url: `http://${host}:${port}` })
  return demo
}

/** Why it cannot listen, and what to do. */
function refusedAddress({ host, port }: Config, { code, message }: NodeJS.ErrnoException): string {
  if (code === 'EADDRINUSE') return `Port ${port} of ${host} is in use. Stop what listens there, or set PORT to another.`
  return `It cannot listen on ${host}, port ${port} (${message}). Check HOST and PORT.`
}

/** Notes where this start listens. False when there are no demo accounts. */
async function noteDemoUrl(dataDir: string, url: string): Promise<boolean> {
  const demo = await readDemoFile(dataDir)
  if (demo && demo.url !== url) await writeDemoFile(dataDir, { ...demo, url })
  return demo !== null
}

/** `bulkhead seed`: the demo accounts, in whatever database is configured. */
export async function seedDatabase(config: Config, logger: Logger, progress: Progress): Promise<DemoAccounts> {
  await using opened = new AsyncDisposableStack()
  const { data, catalog, settings } = await openData(config, logger, progress, opened)
  const ports = await openPorts(config, logger, opened)
  const demo = await seedDemo({ data, catalog, ports, settings })
  if (demo.tenants.length === 0) progress('The demo tenants are there already. Their keys were printed when they were made.')
  return demo
}
