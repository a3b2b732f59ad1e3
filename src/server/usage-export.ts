import type { IncomingMessage, ServerResponse } from 'node:http'
import { stringify } from 'csv-stringify/sync'
import { z } from 'zod'
import { ValidationProblem } from '../domain/errors.ts'
import { checkRange } from '../domain/ledger.ts'
import type { DateRange } from '../domain/ledger-sums.ts'
import { exportableLedger, type LedgerRow, sendLedger } from '../domain/usage-export.ts'
import { decodeId, encodeId, type NodeType } from '../schema/global-id.ts'
import { decimalOf } from '../schema/money.ts'
import type { Downloads } from './download.ts'

/** Where the ledger is fetched. */
export const usagePath = '/usage'

/**
 * Answers `GET /usage?from=…&to=…&format=csv|json` with the ledger, made while it is sent, as `Downloads` does: for the staff of a tenant
 * its own, for operators that of the tenant they name with `tenantId`, without what is the tenant's own business.
 */
export function createUsageExport(downloads: Downloads) {
  return (request: IncomingMessage, response: ServerResponse): Promise<void> =>
    downloads.answer(request, response, async (principal) => {
      const parameters = parametersOf(request)
      const tenantId = parameters.get('tenantId')
      const ledger = await exportableLedger(principal, tenantId === null ? null : decodeId('Tenant', tenantId))
      const range = { from: momentOf(parameters, 'from'), to: momentOf(parameters, 'to') }
      checkRange(range, ['to'])
      const format = formatOf(parameters)
      const columns = ledger.tellsOrigin ? allColumns : allColumns.filter((column) => !originColumns.has(column))
      return {
        headers: { 'Content-Type': format.type, 'Content-Disposition': `attachment; filename="${nameOf(range)}.${format.name}"` },
        async send(sink) {
          let isFirst = true
          // Nothing is written before there is a seat: without one the answer is to say so.
          await sendLedger(ledger, range, async (rows) => {
            await sink.write((isFirst ? format.begin(columns) : '') + format.rows(rows.map(cellsOf), columns, isFirst))
            isFirst = false
          })
          await sink.write(format.end)
          await sink.end()
        },
      }
    })
}

type Column = keyof ReturnType<typeof cellsOf>

/** A row as it is sent, in the order of the columns. The amount is in nano-units in both columns. */
function cellsOf(row: LedgerRow) {
  return {
    id: encodeId('UsageRecord', row.id),
    createdAt: row.createdAt.toISOString(),
    model: row.model,
    inputTokens: row.inputTokens,
    cachedInputTokens: row.cachedInputTokens,
    outputTokens: row.outputTokens,
    reasoningTokens: row.reasoningTokens,
    estimated: row.estimated,
    costNanos: row.costNanos,
    cost: row.costNanos,
    currency: row.currency,
    conversationId: idOf('Conversation', row.conversationId),
    runId: idOf('Run', row.runId),
    userId: row.userId ?? null,
    agentId: idOf('Agent', row.agentId),
    configVersion: row.configVersion ?? null,
    turn: row.turn,
    attempt: row.attempt,
    correction: row.correction,
    correctsId: idOf('UsageRecord', row.correctsId),
    priceId: row.priceId,
    tenantPriceId: row.tenantPriceId,
  }
}

function idOf(type: NodeType, uuid: string | null | undefined): string | null {
  return uuid == null ? null : encodeId(type, uuid)
}

const allColumns: readonly Column[] = [
  ...(['id', 'createdAt', 'model', 'inputTokens', 'cachedInputTokens', 'outputTokens', 'reasoningTokens'] as const),
  ...(['estimated', 'costNanos', 'cost', 'currency', 'conversationId', 'runId', 'userId', 'agentId', 'configVersion'] as const),
  ...(['turn', 'attempt', 'correction', 'correctsId', 'priceId', 'tenantPriceId'] as const),
]

/** What operators are not told. */
const originColumns: ReadonlySet<Column> = new Set(['conversationId', 'runId', 'userId', 'agentId', 'configVersion'])

type Format = {
  /** Also the end of the file's name. */
  name: string
  type: string
  begin: (columns: readonly Column[]) => string
  rows: (rows: readonly Record<Column, unknown>[], columns: readonly Column[], isFirst: boolean) => string
  end: string
}

/** RFC 4180. A text that a spreadsheet would take for a formula has an apostrophe in front: models and users are named by tenants. */
const csv: Format = {
  name: 'csv',
  type: 'text/csv; charset=utf-8; header=present',
  begin: (columns) => stringify([columns], { record_delimiter: 'windows' }),
  rows: (rows, columns) =>
    stringify([...rows], {
      columns: [...columns],
      record_delimiter: 'windows',
      escape_formulas: true,
      cast: { boolean: String, bigint: (value, { column }) => (column === 'cost' ? decimalOf(value) : String(value)) },
    }),
  end: '',
}

/** One array, a row on each line. Whole numbers that may be larger than 2^53 are text, and so are decimal fractions. */
const json: Format = {
  name: 'json',
  type: 'application/json',
  begin: () => '[',
  rows: (rows, columns, isFirst) =>
    `${isFirst || rows.length === 0 ? '' : ','}\n${rows.map((row) => lineOf(row, columns)).join(',\n')}`,
  end: '\n]\n',
}

function lineOf(row: Record<Column, unknown>, columns: readonly Column[]): string {
  return JSON.stringify(row, (name, value: unknown) => {
    if (name !== '' && !columns.includes(name as Column)) return undefined
    if (typeof value !== 'bigint') return value
    return name === 'cost' ? decimalOf(value) : String(value)
  })
}

function formatOf(parameters: URLSearchParams): Format {
  const format = [csv, json].find(({ name }) => name === (parameters.get('format') ?? csv.name))
  if (!format) throw new ValidationProblem(['format'], 'The format must be csv or json.')
  return format
}

const moment = z.union([z.iso.datetime({ offset: true }), z.iso.date()])

/** Throws a ValidationProblem unless the parameter is a time in ISO 8601. A day is its beginning in UTC. */
function momentOf(parameters: URLSearchParams, name: 'from' | 'to'): Date {
  const text = parameters.get(name)
  const example = 'as in 2026-11-01T00:00:00Z or 2026-11-01'
  if (text === null) throw new ValidationProblem([name], `Say ${name} when, ${example}.`)
  if (!moment.safeParse(text).success) {
    const advice = text.includes(' ') ? ' A + is written %2B in a URL.' : ''
    throw new ValidationProblem([name], `What is given as ${name} must be a time in ISO 8601, ${example}.${advice}`)
  }
  return new Date(text)
}

function parametersOf({ url = '' }: IncomingMessage): URLSearchParams {
  const start = url.indexOf('?')
  return new URLSearchParams(start < 0 ? '' : url.slice(start))
}

function nameOf({ from, to }: DateRange): string {
  return ['usage', ...[from, to].map((date) => date.toISOString().slice(0, 10))].join('-')
}
