import { createHash } from 'node:crypto'
import { dataModel } from '../data/generated/data-model.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { originalTables, type TenantTable } from '../data/tenant-tables.ts'
import type { Scope } from './scope.ts'

/** The name and version of the archive's format, which docs/export.md describes. */
const format = { name: 'bulkhead-tenant-export', version: 1 } as const

/** What stays here, by model and field, with the reason. Everything else that is the tenant's is in the archive. */
const withheld: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  Tenant: {
    accessVersion: 'How the platform notices changes of access; it says nothing about the tenant.',
    fencedAt: 'Where the platform stands in moving or erasing the tenant.',
    databaseId: 'Where the platform keeps the tenant.',
  },
  ApiKey: {
    secretHash: 'What the key is checked against. With the pepper it could be used to find the key.',
    pepperVersion: 'Which of the platform peppers the hash was made with.',
  },
  IdempotencyKey: { inputHash: 'A digest of an input, by which a guess at the input could be confirmed.' },
  DataKey: {
    wrappedKey: 'A key, if an encrypted one.',
    wrappingKeyId: "Which of the platform's keys encrypts it.",
  },
  Secret: {
    ciphertext: 'Secrets are exported by name only: their values never leave.',
    dataKeyId: 'Which key the value is encrypted with.',
  },
  Webhook: {
    ciphertext: 'The signing secret: whoever has it can pass for the platform.',
    dataKeyId: 'Which key the secret is encrypted with.',
  },
}

/** Rows that are read, and held in memory, at a time. The longest are some 100,000 bytes each. */
const batch = 100

/** A table as it is in the archive. */
type ArchivedTable = Omit<TenantTable, 'fields'> & { fields: readonly string[] }

type Row = Readonly<Record<string, unknown>>

/** The tenant's own row and every table of its rows that are not made from others, each after those that it refers to, without what is withheld. */
export const archivedTables: readonly ArchivedTable[] = [ownRow(), ...originalTables].map((table) => ({
  ...table,
  fields: table.fields.filter((field) => withheld[table.model]?.[field] === undefined),
}))

/** How many rows of each table would be in the archive. */
export async function archivedRows(tx: TenantTransaction): Promise<{ name: string; rows: number }[]> {
  const counts: { name: string; rows: number }[] = []
  for (const { model, name } of archivedTables) counts.push({ name, rows: await rowsOf(tx, model).count() })
  return counts
}

/**
 * Hands the archive's text to `write`, in pieces and in order, waiting for each: a manifest, a line for each row, and a trailer with
 * the SHA-256 of all lines before it. `tx` must see one moment. `onRows` is told how many rows went out so far. Answers their number.
 */
export async function writeArchive(
  scope: Scope,
  tx: TenantTransaction,
  write: (text: string) => Promise<void>,
  onRows: (rows: number) => Promise<void>,
): Promise<number> {
  const hash = createHash('sha256')
  const send = async (lines: readonly object[]) => {
    const text = lines.map((line) => `${encode(line)}\n`).join('')
    hash.update(text)
    await write(text)
  }
  const { id, name } = scope.tenant
  const createdAt = new Date(scope.ports.now())
  await send([{ manifest: { format, tenant: { id, name }, createdAt, tables: await archivedRows(tx) } }])
  let sent = 0
  for (const table of archivedTables) {
    for await (const rows of batchesOf(tx, table)) {
      await send(rows.map((row) => ({ table: table.name, row })))
      sent += rows.length
      await onRows(sent)
    }
  }
  await write(`${encode({ trailer: { rows: sent, sha256: hash.digest('hex') } })}\n`)
  return sent
}

/** All rows of a table in the order of its key, each batch read by an index from where the last one ended. */
async function* batchesOf(tx: TenantTransaction, { model, key, fields }: ArchivedTable): AsyncGenerator<Row[], void, undefined> {
  const select = Object.fromEntries(fields.map((field) => [field, true]))
  // All rows have the same tenant.
  const own = key.filter((field) => field !== 'tenantId')
  const orderBy = own.map((field) => ({ [field]: 'asc' }))
  let where: object = {}
  for (;;) {
    const rows = await rowsOf(tx, model).findMany({ where, select, orderBy, take: batch })
    if (rows.length > 0) yield rows
    const last = rows.at(-1)
    if (!last || rows.length < batch) return
    where = after(own, last)
  }
}

/** The rows that come after `last`: equal to it in the first fields of the key, and beyond it in the next. */
function after(key: readonly string[], last: Row): object {
  const beyond = key.map((field, index) => {
    const equal = Object.fromEntries(key.slice(0, index).map((earlier) => [earlier, last[earlier]]))
    return { ...equal, [field]: { gt: last[field] } }
  })
  if (beyond.length === 1) return { ...beyond[0] }
  // No index is searched by an OR alone.
  const [first = ''] = key
  return { [first]: { gte: last[first] }, OR: beyond }
}

type Rows = { count(): Promise<number>; findMany(args: object): Promise<Row[]> }

/** A model by its name: which one is a value here, too varied for the client's types. */
function rowsOf(tx: TenantTransaction, model: string): Rows {
  const delegate = `${model.charAt(0).toLowerCase()}${model.slice(1)}`
  return (tx as unknown as Readonly<Record<string, Rows>>)[delegate] ?? missing(model)
}

function ownRow(): TenantTable {
  const { table, key, scalars } = dataModel['Tenant'] ?? missing('Tenant')
  return { model: 'Tenant', name: table, key, fields: scalars }
}

function missing(model: string): never {
  throw new Error(`The data model has no ${model}.`)
}

/** JSON, in which whole numbers that may be larger than 2^53 are decimal strings, and bytes are base64. */
function encode(line: object): string {
  return JSON.stringify(line, (_name, value: unknown) => {
    if (typeof value === 'bigint') return value.toString()
    return value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value
  })
}
