import { Prisma } from './generated/client.ts'
import { dataModel } from './generated/data-model.ts'

/**
 * All columns of a model's table, under the names that the client has for them, for raw SQL that answers rows like the client's:
 * `r.tenant_id as "tenantId", …` of the table called `r` there. With a prefix the names begin with it, so that one row can hold
 * several models' columns: see `takeModel`.
 */
export function columnsOf(model: string, table: string, prefix = ''): Prisma.Sql {
  const key = `${model} ${table} ${prefix}`
  const sql = known.get(key) ?? writeColumns(model, table, prefix)
  known.set(key, sql)
  return sql
}

/** As many as there are places in the code that ask. */
const known = new Map<string, Prisma.Sql>()

function writeColumns(model: string, table: string, prefix: string): Prisma.Sql {
  const columns = fieldsOf(model).map((field) => `${table}.${columnOf(field)} as "${prefix}${field}"`)
  return Prisma.raw(columns.join(', '))
}

/** The row of one model out of one that holds the columns of several. */
export function takeModel<Row>(model: string, row: Record<string, unknown>, prefix: string): Row {
  return Object.fromEntries(fieldsOf(model).map((field) => [field, row[`${prefix}${field}`]])) as Row
}

function fieldsOf(model: string): readonly string[] {
  const shape = dataModel[model]
  if (!shape) throw new TypeError(`There is no model ${model}.`)
  return shape.scalars
}

function columnOf(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
