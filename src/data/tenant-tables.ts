import { dataModel } from './generated/data-model.ts'

/** A table that holds tenants' rows. */
export type TenantTable = {
  model: string
  /** Its name in Postgres. */
  name: string
  /** The fields of its primary key, and all its fields, as the data model names them. */
  key: readonly string[]
  fields: readonly string[]
}

/** Every table with a tenant_id, each after those that it refers to. From the data model, so that none can be forgotten. */
export const tenantTables: readonly TenantTable[] = inOrder(
  Object.keys(dataModel).filter((model) => dataModel[model]?.scalars.includes('tenantId')),
)

/** What is made from other tables, and made anew wherever they are: it is neither moved nor given away. */
const derived: ReadonlySet<string> = new Set(['usage_rollups'])

/** Those of the tables whose rows are not to be had from others. */
export const originalTables: readonly TenantTable[] = tenantTables.filter(({ name }) => !derived.has(name))

/** The tables that refer to `model`'s, directly or through others, and that one: each before those that it refers to. */
export function dependentsOf(model: string): TenantTable[] {
  const found = new Set([model])
  for (const table of tenantTables) {
    if (referencesOf(table.model).some((reference) => found.has(reference))) found.add(table.model)
  }
  return tenantTables.filter((table) => found.has(table.model)).toReversed()
}

function inOrder(models: readonly string[]): TenantTable[] {
  const placed = new Set<string>()
  const place = (model: string): TenantTable[] => {
    if (placed.has(model) || !models.includes(model)) return []
    placed.add(model)
    return [...referencesOf(model).flatMap(place), tableOf(model)]
  }
  return models.flatMap(place)
}

/** The models that hold what rows of `model` refer to. */
function referencesOf(model: string): string[] {
  const relations = Object.values(dataModel[model]?.relations ?? {})
  return relations.filter(({ from, model: to }) => from.length > 0 && to !== model).map((relation) => relation.model)
}

function tableOf(model: string): TenantTable {
  const shape = dataModel[model]
  if (!shape) throw new Error(`The data model has no ${model}.`)
  return { model, name: shape.table, key: shape.key, fields: shape.scalars }
}
