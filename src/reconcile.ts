import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import { openDataAsItIs } from './app.ts'
import { type Config, ConfigError } from './config.ts'
import { isOutage } from './data/outage.ts'
import { billingMonth, parseMonth } from './domain/billing-month.ts'
import type { DateRange } from './domain/ledger-sums.ts'
import { readProviderUsage } from './domain/provider-usage.ts'
import { compareUsage, type ModelDrift, percentOf, sumLedgers } from './domain/reconciliation.ts'

/** Options of the command line, as they were typed. */
export type ReconcileOptions = { month?: string; provider: string; tolerance: string }

/** A comparison of our ledgers with a provider's account. `tolerance` is in percent. */
export type Reconciliation = { period: DateRange; tenants: number; drifts: ModelDrift[]; tolerance: number }

/** Compares what all tenants used by our ledgers with what is in the provider's file. Changes nothing but what a start would. */
export async function reconcile(
  config: Config,
  logger: Logger,
  file: string,
  options: ReconcileOptions,
): Promise<Reconciliation> {
  if (options.provider !== 'openai')
    throw new ConfigError('--provider must be openai. Bring the figures of others into the plain CSV, which needs no provider.')
  const tolerance = Number(options.tolerance)
  if (options.tolerance.trim() === '' || !(tolerance >= 0))
    throw new ConfigError('--tolerance must be a number of percent from 0.')
  const month = options.month === undefined ? null : monthOf(options.month)
  const text = await readFile(file, 'utf8').catch((cause) => {
    throw new ConfigError(`${file} cannot be read (${cause.code}).`, { cause })
  })
  const { period, models } = readProviderUsage(text, month)

  await using opened = new AsyncDisposableStack()
  const platform = await openDataAsItIs(config, logger, opened)
  const ours = await sumLedgers(platform, period).catch((error) => {
    if (isOutage(error))
      throw new ConfigError('A database cannot be reached, and the ledgers in it would be missing. Check that all are running.', {
        cause: error,
      })
    throw error
  })
  return { period, tenants: ours.tenants, drifts: compareUsage(ours.models, models), tolerance }
}

/** Whether all differences are tolerable. */
export function agrees({ drifts, tolerance }: Reconciliation): boolean {
  return drifts.every(({ percent }) => percent <= tolerance)
}

const figures = [
  ['requests', 'requests'],
  ['inputTokens', 'input tokens'],
  ['cachedInputTokens', 'of them cached'],
  ['outputTokens', 'output tokens'],
] as const

/** The comparison as a plain table, a line for each figure of each model, and what comes of it. */
export function reconciliationText(reconciliation: Reconciliation): string {
  const { period, tenants, drifts, tolerance } = reconciliation
  const rows = drifts.flatMap(({ model, ours, theirs }) =>
    figures.map(([figure, name], index) => [
      ...[index === 0 ? model : '', name, String(ours[figure]), String(theirs[figure])],
      ...[signed(ours[figure] - theirs[figure]), percentText(percentOf(ours[figure], theirs[figure]))],
    ]),
  )
  const table = [['model', '', 'ours', 'theirs', 'difference', '%'], ...rows]
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? []
  const lines = table.map((row) =>
    row.map((cell, column) => (column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  '),
  )
  const beyond = drifts.filter(({ percent }) => percent > tolerance).map(({ model }) => model)
  const verdict = beyond.length === 0 ? `All within ${tolerance} %.` : `More than ${tolerance} % apart: ${beyond.join(', ')}.`
  const heading = `${period.from.toISOString()} to ${period.to.toISOString()}, ${tenants} tenant${tenants === 1 ? '' : 's'}`
  return [heading, '', ...lines, '', verdict, ''].join('\n')
}

function signed(difference: bigint): string {
  return difference > 0n ? `+${difference}` : String(difference)
}

function percentText(percent: number): string {
  return Number.isFinite(percent) ? percent.toFixed(2) : '∞'
}

/** A month of the calendar in UTC, as providers have it. */
function monthOf(text: string): DateRange {
  const month = parseMonth(text)
  if (!month) throw new ConfigError('--month must be a month, as in 2026-11.')
  return billingMonth({ timeZone: 'UTC', pastTimeZones: [] }, month)
}
