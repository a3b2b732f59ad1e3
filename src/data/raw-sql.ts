import { PrismaPg } from '@prisma/adapter-pg'
import { type ColumnType, ColumnTypeEnum, type SqlDriverAdapter } from '@prisma/driver-adapter-utils'
import { Prisma } from './generated/client.ts'
import type { TenantPool } from './tenant-pool.ts'

type Row = Record<string, unknown>
type Template = [strings: TemplateStringsArray | Prisma.Sql, ...values: unknown[]]
type Statement = Parameters<SqlDriverAdapter['queryRaw']>[0]

/**
 * Raw SQL by the client's own driver adapter, and without the client, which takes longer for a short statement than all the rest. Answers
 * what the client's `$queryRaw` and `$executeRaw` answer, and throws the adapter's errors, which the client wraps.
 */
export class RawSql {
  readonly #adapter: Promise<SqlDriverAdapter>

  /** `options` must be those of the client on this pool: a prepared statement's name is one for both. */
  constructor(pool: TenantPool, options: ConstructorParameters<typeof PrismaPg>[1]) {
    this.#adapter = new PrismaPg(pool, options).connect()
  }

  async query(...template: Template): Promise<Row[]> {
    const { columnNames, columnTypes, rows } = await (await this.#adapter).queryRaw(statementOf(template))
    const read = columnTypes.map(readerOf)
    return rows.map((values) => {
      const row: Row = {}
      for (let index = 0; index < values.length; index++) {
        const value = values[index]
        row[columnNames[index] as string] = value === null ? null : (read[index] as Reader)(value)
      }
      return row
    })
  }

  async execute(...template: Template): Promise<number> {
    return (await this.#adapter).executeRaw(statementOf(template))
  }

  /** Lets go of the pool, which stays open. */
  async close(): Promise<void> {
    await (await this.#adapter).dispose()
  }
}

const scalar = { scalarType: 'unknown', arity: 'scalar' } as const
const list = { scalarType: 'unknown', arity: 'list' } as const

function statementOf([strings, ...values]: Template): Statement {
  const { text, values: args } = 'raw' in strings ? Prisma.sql(strings, ...values) : strings
  return { sql: text, args, argTypes: args.map((arg) => (Array.isArray(arg) ? list : scalar)) }
}

type Reader = (value: unknown) => unknown

const asItIs: Reader = (value) => value
const asDate: Reader = (value) => new Date(value as string)
const asBigInt: Reader = (value) => BigInt(value as string)
const asJson: Reader = (value) => JSON.parse(value as string)
const asBytes: Reader = (value) => new Uint8Array(value as Uint8Array)

/** What becomes of a column's values. What is not here, the adapter has read already. */
const readers: Partial<Record<ColumnType, Reader>> = {
  [ColumnTypeEnum.Int64]: asBigInt,
  [ColumnTypeEnum.Date]: asDate,
  [ColumnTypeEnum.DateTime]: asDate,
  [ColumnTypeEnum.Json]: asJson,
  [ColumnTypeEnum.Bytes]: asBytes,
}

/** Of these no statement asks: each would need a way of its own. */
const unread: ReadonlySet<ColumnType> = new Set([
  ...[ColumnTypeEnum.Numeric, ColumnTypeEnum.NumericArray, ColumnTypeEnum.Int64Array, ColumnTypeEnum.JsonArray],
  ...[ColumnTypeEnum.DateArray, ColumnTypeEnum.DateTimeArray, ColumnTypeEnum.BytesArray],
  ...[ColumnTypeEnum.Time, ColumnTypeEnum.TimeArray],
])

function readerOf(type: ColumnType): Reader {
  if (unread.has(type)) throw new TypeError('A raw statement answers a column of a type that is not read here. Cast it.')
  return readers[type] ?? asItIs
}
