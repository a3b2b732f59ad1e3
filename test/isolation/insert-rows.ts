import { createHash } from 'node:crypto'
import pg from 'pg'
import { dataModel } from '../../src/data/generated/data-model.ts'
import type { Row, Rows } from './rows.ts'

/**
 * Inserts rows of many models as the superuser, past both walls, in one statement: what refers to what is checked when all are there.
 * Of two with one id the later stands. Each tenant gets the agent beside it as its own.
 */
export async function insertRows(admin: pg.Client, parts: readonly Rows[]): Promise<void> {
  const models = new Set(parts.flatMap((part) => Object.keys(part)))
  const [inserts, values]: [string[], string[]] = [[], []]
  for (const model of models) {
    const rows = parts.flatMap((part): Row[] => (part[model] ? [part[model]] : []))
    const byId = new Map(rows.map((row) => [row['id'] ?? row, encode(row)]))
    // A column that is not named gets its default.
    for (const alike of Map.groupBy(byId.values(), (row) => Object.keys(row).toSorted().join()).values()) {
      const [table, columns] = [
        dataModel[model]?.table,
        Object.keys(alike[0] ?? {})
          .map(pg.escapeIdentifier)
          .join(', '),
      ]
      values.push(JSON.stringify(alike))
      inserts.push(
        `i${inserts.length} as (insert into ${table} (${columns})
          select ${columns} from json_populate_recordset(null::${table}, $${values.length}::json))`,
      )
    }
  }
  const text = `with ${inserts.join(', ')} select`
  // Rows like these are inserted hundreds of times. Under a name it is planned once.
  const name = createHash('md5').update(text).digest('hex')
  await admin.query({ name, text, values })
  const agents = parts.flatMap(({ Tenant, Agent }) => (Tenant ? [{ tenant: Tenant['id'], agent: Agent?.['id'] }] : []))
  await admin.query(
    `update tenants set default_agent_id = a.agent from jsonb_to_recordset($1) as a(tenant uuid, agent uuid) where id = a.tenant`,
    [JSON.stringify(agents)],
  )
}

/** The row as JSON that Postgres reads, by its columns. */
function encode(row: Row): Row {
  return Object.fromEntries(
    Object.entries(row).flatMap(([field, value]) => (value === undefined ? [] : [[columnOf(field), encodeValue(value)]])),
  )
}

function encodeValue(value: unknown): unknown {
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
  return typeof value === 'bigint' ? String(value) : value
}

function columnOf(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
