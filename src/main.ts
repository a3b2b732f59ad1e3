#!/usr/bin/env node
import { text } from 'node:stream/consumers'
import closeWithGrace from 'close-with-grace'
import { Command } from 'commander'
import { type Logger, pino } from 'pino'
import { createApp, seedDatabase } from './app.ts'
import { ask } from './ask.ts'
import { type Config, ConfigError, readConfig } from './config.ts'
import { type Destination, migrateDatabase, placeTenant } from './databases.ts'
import { examine, tableOf } from './doctor.ts'
import { rebuildSums } from './rebuild-sums.ts'
import { agrees, type ReconcileOptions, reconcile, reconciliationText } from './reconcile.ts'
import { rotateKeys } from './rotate-keys.ts'
import { startText } from './start-text.ts'

/**
 * What a log line never shows, whatever object it came in. pg hangs a whole connection on its errors, with what it takes to cancel
 * its statements, and Postgres quotes the row that it refused in an error's detail.
 */
const secrets = [
  ...['authorization', 'secret', 'apiKey', 'password', 'connectionString', 'client', 'detail'],
  ...['keyPepper', 'masterKey', 'oldMasterKeys', 'metricsToken', 'value', 'wrappedKey', 'ciphertext'],
].flatMap((name) => [name, `*.${name}`, `*.*.${name}`])

/** A second signal within this time is the first one again: npm passes on the Ctrl-C that the terminal has sent everybody. In ms. */
const echo = 1_000
const stopSignals = ['SIGINT', 'SIGTERM'] as const

const program = new Command('bulkhead').description('A multi-tenant AI agent platform behind a GraphQL API.').showHelpAfterError()

program
  .command('start')
  .description('start the platform; without DATABASE_URL, on an embedded Postgres with demo tenants')
  .option('--role <role>', 'what this process does: all, api or worker; the last two need REDIS_URL')
  .action(({ role }: { role?: string }) => run(start, { BULKHEAD_ROLE: role }))

program
  .command('migrate')
  .description('set up or bring up to date the database that DATABASE_ADMIN_URL names: roles, tables, policies')
  .action(() => run((config) => migrateDatabase(config, say)))

program
  .command('seed')
  .description('add the demo tenants to the configured database and print their keys once')
  .action(() =>
    run(async (config, logger) => process.stdout.write(`${JSON.stringify(await seedDatabase(config, logger, say), null, 2)}\n`)),
  )

type PlaceOptions = { database?: string; pooled?: true; abort?: true }

program
  .command('tenant')
  .description('where tenants are')
  .command('place')
  .description('move a tenant, by name or id, to another database; run it again to go on with a move that was interrupted')
  .argument('<tenant>')
  .option('--database <url>', "to the database of this administrator's URL; - reads the URL from standard input")
  .option('--pooled', 'to the database of DATABASE_URL, which tenants share')
  .option('--abort', 'undo a move that has not come to its switch')
  .action((tenant: string, options: PlaceOptions) =>
    run(async (config) => placeTenant(config, tenant, await destinationOf(options), say)),
  )

program
  .command('doctor')
  .description("check the configuration, the databases, Redis, and each tenant's counters, sums and invoices against its ledger")
  .action(() => run(doctor))

program
  .command('rebuild-sums')
  .description("make the sums of a tenant's ledger anew, by name or id; nothing is charged otherwise by it")
  .argument('<tenant>')
  .action((tenant: string) =>
    run(async (config, logger) => {
      const quarters = await rebuildSums(config, logger, tenant)
      say(`${quarters} quarters of an hour are summed anew by the workers; until then reports read the ledger itself.`)
    }),
  )

program
  .command('keys')
  .description('what secrets are encrypted under')
  .command('rotate')
  .description(
    'put what BULKHEAD_OLD_MASTER_KEYS encrypt under BULKHEAD_MASTER_KEY; run it again to go on when it was interrupted',
  )
  .action(() => run(async (config, logger) => say(await rotateKeys(config, logger, say))))

program
  .command('reconcile')
  .description("compare the ledgers of all tenants with a provider's account of what was used; fails when a model differs")
  .argument('<file>', "OpenAI's usage as JSON or CSV, or a plain CSV")
  .option('--month <month>', 'only this month in UTC, as in 2026-11; default all that is in the file')
  .option('--provider <provider>', 'whose format JSON is in', 'openai')
  .option('--tolerance <percent>', 'by how much a model may differ', '1')
  .action((file: string, options: ReconcileOptions) =>
    run(async (config, logger) => {
      const reconciliation = await reconcile(config, logger, file, options)
      process.stdout.write(reconciliationText(reconciliation))
      if (!agrees(reconciliation)) process.exitCode = 1
    }),
  )

program
  .command('ask')
  .description('ask an agent and watch the answer stream')
  .argument('<question>')
  .option('--as <tenant>', 'the demo tenant to ask as', 'acme')
  .option('--key <key>', "an API key instead of the demo tenant's")
  .option('--url <url>', 'the GraphQL endpoint')
  .action((question: string, options: { as: string; key?: string; url?: string }) =>
    run(({ dataDir }) => ask(question, { ...options, dataDir }, (text) => process.stdout.write(text))),
  )

await program.parseAsync()

async function destinationOf({ database, pooled, abort }: PlaceOptions): Promise<Destination> {
  if ([database, pooled, abort].filter((option) => option !== undefined).length !== 1)
    throw new ConfigError('Say where to: one of --database <url>, --pooled and --abort.')
  if (database !== undefined)
    return { kind: 'database', adminUrl: database === '-' ? (await text(process.stdin)).trim() : database }
  return { kind: pooled ? 'pooled' : 'abort' }
}

/** Options of the command line, by the names of the variables that they stand for. */
type Options = Record<string, string | undefined>

/** Runs a command. What goes wrong ends in one line on stderr; the whole error is shown at LOG_LEVEL=debug. */
async function run(command: (config: Config, logger: Logger) => Promise<unknown>, options: Options = {}): Promise<void> {
  let config: Config | null = null
  try {
    config = readConfig(options)
    const logger = pino({ level: config.logLevel, redact: secrets }, pino.destination(2))
    await command(config, logger)
  } catch (error) {
    process.stderr.write(`bulkhead: ${error instanceof Error ? error.message : String(error)}\n`)
    if (config?.logLevel === 'debug' || config?.logLevel === 'trace') console.error(error)
    process.exitCode = 1
  }
}

async function start(config: Config, logger: Logger): Promise<void> {
  // Before anything is opened: a Ctrl-C during a slow first start must close what is open by then.
  const starting = createApp(config, logger, say)
  const ending = closeWithGrace({ delay: 15_000, logger, skip: [...stopSignals] }, async ({ err }) => {
    if (err) logger.fatal({ err }, 'An unexpected error ends this process.')
    const app = await starting.catch(() => null)
    await app?.close()
  })
  let stopping: number | null = null
  const onSignal = () => {
    if (stopping === null) void ending.close()
    else if (Date.now() - stopping > echo) process.exit(1)
    stopping ??= Date.now()
  }
  for (const signal of stopSignals) process.on(signal, onSignal)
  try {
    process.stdout.write(startText(config, await starting))
  } catch (error) {
    // They would end the process as if nothing had happened.
    ending.uninstall()
    for (const signal of stopSignals) process.off(signal, onSignal)
    throw error
  }
}

function say(step: string): void {
  process.stderr.write(`${step}\n`)
}

async function doctor(config: Config, logger: Logger): Promise<void> {
  const findings = await examine(config, logger)
  process.stdout.write(tableOf(findings))
  if (findings.some(({ verdict }) => verdict === 'problem')) process.exitCode = 1
}
