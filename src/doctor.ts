import type { Logger } from 'pino'
import { openDataAsItIs, openPorts } from './app.ts'
import type { Config } from './config.ts'
import { inspectDatabase } from './data/boot-gate.ts'
import { pendingMigrations } from './data/migrate.ts'
import { findLedgerDrift } from './domain/conservation.ts'
import { leftBehind } from './domain/key-rotation.ts'
import { findDrift } from './domain/quota-drift.ts'
import { inWords } from './rotate-keys.ts'

/** What was looked at, and how it is. `detail` says what to do about a problem. */
export type Finding = { what: string; verdict: 'ok' | 'problem' | 'not checked'; detail: string }

type Examination = () => Promise<string>

/** Raised by an examination that cannot be made as things are. */
class NotChecked extends Error {}

/**
 * Looks at everything that the platform needs, one after the other, and changes nothing but what a start would. Goes on after a problem as
 * far as it can. The configuration itself was read by then.
 */
export async function examine(config: Config, logger: Logger): Promise<Finding[]> {
  await using opened = new AsyncDisposableStack()
  const findings: Finding[] = [{ what: 'configuration', verdict: 'ok', detail: config.production ? 'production' : 'development' }]
  const look = async (what: string, examination: Examination) => {
    findings.push(await findingOf(what, examination))
  }
  const { database } = config
  await look('migrations', async () => {
    if (database.kind === 'embedded') return 'the embedded database migrates itself'
    if (database.adminUrl === null) throw new NotChecked('DATABASE_ADMIN_URL is not set')
    const pending = await pendingMigrations(database.adminUrl)
    if (pending.length === 0) return 'all applied'
    throw new Error(`${pending.length} not applied, the first is ${pending[0]}. Run \`bulkhead migrate\`.`)
  })
  await look('database role', async () => {
    if (database.kind === 'embedded') return 'the embedded database has its own'
    const { refusals, warnings } = await inspectDatabase(database.appUrl)
    if (refusals.length + warnings.length > 0) throw new Error([...refusals, ...warnings].join(' '))
    return 'cannot get past the walls'
  })

  const data = openDataAsItIs(config, logger, opened)
  await look('catalogue', async () => {
    const { catalog } = await data
    if (!(await catalog.isReachable())) throw new Error('It does not answer. Check DATABASE_PLATFORM_URL.')
    return 'answers'
  })
  const ports = openPorts(config, logger, opened)
  await look('master key', async () => {
    const [{ catalog }, { vault }] = [await data, await ports]
    const left = await leftBehind(catalog, vault.wrappingKeyId)
    if (left.dataKeys + left.databases === 0) return 'everything is encrypted under the current one'
    throw new Error(`${inWords(left)} are encrypted under an older one. Run \`bulkhead keys rotate\`.`)
  })
  await look('redis', async () => {
    await ports
    return config.redis === null ? 'not used: counters are those of each process, and not seen from here' : 'answers'
  })
  await look('quota counters', async () => {
    if (config.redis === null) throw new NotChecked('there is no Redis')
    const drift = await findDrift({ ...(await data), ports: await ports })
    if (drift.length === 0) return 'as the ledgers of the tenants that were active within the hour'
    const each = drift.map(({ tenantId, tokens }) => `${tenantId} by ${tokens > 0 ? '+' : ''}${tokens}`)
    throw new Error(`differ from the ledger, in tokens: ${each.join(', ')}`)
  })
  await look('ledgers', async () => {
    const drift = await findLedgerDrift({ ...(await data), ports: await ports })
    if (drift.length === 0) return 'their sums and invoices, as of the tenants that were active within the hour'
    const each = drift.map(({ tenantId, month, sums, invoice }) => `${tenantId} in ${month} by ${sums} and ${invoice}`)
    throw new Error(
      `differ from their sums and invoices, in nano-units: ${each.join(', ')}. Run \`bulkhead rebuild-sums <tenant>\`.`,
    )
  })
  return findings
}

async function findingOf(what: string, examination: Examination): Promise<Finding> {
  try {
    return { what, verdict: 'ok', detail: await examination() }
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error)
    return { what, verdict: error instanceof NotChecked ? 'not checked' : 'problem', detail }
  }
}

/** The findings as a plain table. */
export function tableOf(findings: readonly Finding[]): string {
  const width = (column: 'what' | 'verdict') => Math.max(...findings.map((finding) => finding[column].length))
  const [what, verdict] = [width('what'), width('verdict')]
  return findings.map((each) => `${each.what.padEnd(what)}  ${each.verdict.padEnd(verdict)}  ${each.detail}\n`).join('')
}
