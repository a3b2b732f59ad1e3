import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Tags that say what a test stands behind: which walls, or what it asks of Postgres or of the filter without the other. */
export const wallTags = ['both-walls', 'filter-alone', 'policies-alone', 'postgres', 'filter-rules'] as const

/** Tags that say between whom the walls stand. */
export const partyTags = ['two-tenants', 'two-users'] as const

export type WallTag = (typeof wallTags)[number]
export type PartyTag = (typeof partyTags)[number]

const schema = readFileSync(join(import.meta.dirname, '../../prisma/schema.prisma'), 'utf8')
const mapped = schema.matchAll(/^model (\w+) \{.*?^ {2}@@map\("(\w+)"\)/gms)

/** The table of each model. Its name is the tag of every test that could see a hole in its walls. */
export const tableOf: ReadonlyMap<string, string> = new Map([...mapped].map(([, model = '', table = '']) => [model, table]))

/** The tables of these models, as tags. */
export function tableTags(models: Iterable<string>): string[] {
  return [...new Set(models)].map((model) => {
    const table = tableOf.get(model)
    if (table === undefined) throw new Error(`prisma/schema.prisma maps the model ${model} to no table.`)
    return table
  })
}
