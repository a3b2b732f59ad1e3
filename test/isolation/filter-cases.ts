import { dataModel, type Relation } from '../../src/data/generated/data-model.ts'
import type { Case } from './cases.ts'

type Args = Record<string, unknown>

const reads = ['findFirst', 'findFirstOrThrow', 'findMany', 'count', 'aggregate', 'groupBy']
const changes = ['update', 'updateMany', 'updateManyAndReturn']
const unknown = ['findUnique', 'findRaw', 'aggregateRaw', 'constructor', '__proto__', 'somethingNew']
const key = { id: 'x' }
const scalars: Args[] = ['id', 'tenantId', 'userId'].flatMap((column) => [{ [column]: 'x' }, { [column]: null }])

/** Names that no model has. */
export const unknownModels = ['Nothing', 'constructor', '__proto__']

/** Every operation on the model, with all that its arguments can hold without naming a relation. */
export function plainCases(model: string): Case[] {
  const conditions = [undefined, {}, key, { OR: [key, {}] }, { AND: key, NOT: key }, 'text', [key]]
  const rows = [{}, ...scalars]
  return [
    ...operations(model, conditions, rows, []),
    ...casesOf(model, reads, [{ cursor: key }, { orderBy: { id: 'asc' } }, { orderBy: [{ id: 'asc' }] }]),
    ...casesOf(model, unknown, [{}]),
  ]
}

/**
 * Every operation on the model, with all that its arguments can hold of one relation and of those one level below, whether or
 * not Prisma would take it: the filter must not depend on that.
 */
export function relationCases(model: string, name: string, relation: Relation): Case[] {
  const selections = selectionsOf(name, relation).flatMap((selection) => [{ include: selection }, { select: selection }])
  const orders = [{ orderBy: { [name]: { _count: 'asc' } } }, { orderBy: [{ id: 'asc' }, { [name]: { id: 'asc' } }] }]
  const rows = nestedWritesOf(relation).map((write) => ({ [name]: write }))
  return [...operations(model, conditionsOn(name, relation), rows, selections), ...casesOf(model, reads, orders)]
}

function operations(model: string, conditions: unknown[], rows: Args[], selections: Args[]): Case[] {
  const filtering = conditions.map((where) => ({ where }))
  const data = rows.map((row) => ({ data: row }))
  const writing = rows.flatMap((row) => [{ create: row }, { update: row }])
  return [
    ...casesOf(model, reads, [...filtering, ...selections]),
    ...casesOf(model, ['create', 'createManyAndReturn'], [...data, ...selections.map((part) => ({ data: {}, ...part }))]),
    ...casesOf(
      model,
      ['createMany', 'createManyAndReturn'],
      rows.map((row) => ({ data: [row, {}] })),
    ),
    ...casesOf(model, changes, [...data, ...filtering, ...selections]),
    ...casesOf(model, ['upsert'], [...writing, ...filtering, ...selections]),
    ...casesOf(model, ['delete'], [...filtering, ...selections]),
    ...casesOf(model, ['deleteMany'], filtering),
  ]
}

function casesOf(model: string, names: string[], all: Args[]): Case[] {
  return names.flatMap((operation) =>
    all.map((args) => ({ model, operation, writes: false, aim: `${operation} ${JSON.stringify(args)}`, args })),
  )
}

function conditionsOn(name: string, relation: Relation): Args[] {
  const condition = { [name]: relation.list ? { some: key } : key }
  return [
    ...filtersOn(relation).map((filter) => ({ [name]: filter })),
    ...[{ AND: condition }, { AND: [condition] }, { OR: [condition] }, { NOT: condition }, { NOT: [{ OR: [condition] }] }],
  ]
}

function filtersOn({ model, list }: Relation): unknown[] {
  const below = relationsOf(model).map(([name, relation]) => ({ [name]: relation.list ? { none: key } : { is: key } }))
  const inside = [{}, key, ...below]
  const kinds = list ? ['some', 'none', 'every', 'any'] : ['is', 'isNot', 'any']
  const filters = inside.flatMap((condition) => kinds.map((kind) => ({ [kind]: condition })))
  return list ? filters : [...filters, ...inside, null, { is: null }, { is: key, some: key }]
}

/** What can be taken along of the relation with the rows of a model. */
function selectionsOf(name: string, { model, list }: Relation): Args[] {
  const below = relationsOf(model).flatMap(([child]) => [{ include: { [child]: true } }, { select: { [child]: { take: 1 } } }])
  const counted = relationsOf(model).some((entry) => entry[1].list) ? [{ include: { _count: true } }] : []
  const taken = [true, ...below, ...counted].map((part) => ({ [name]: part }))
  if (!list) return taken
  const orders = relationsOf(model).map(([child]) => ({ orderBy: { [child]: { _count: 'asc' } } }))
  const lists = [{ where: key }, { cursor: key }, ...orders].map((part) => ({ [name]: part }))
  const counts = [true, { where: key }].map((count) => ({ _count: { select: { [name]: count } } }))
  return [...taken, ...lists, ...counts, { _count: true }]
}

/** Each nested write, of each column that a wall could fix, and with each nested write below. */
function nestedWritesOf({ model }: Relation): Args[] {
  const below = relationsOf(model).map(([child]) => ({ [child]: { create: {} } }))
  const rows: Args[] = [{}, ...scalars, ...below]
  const filters = [key, ...relationsOf(model).map(([child, { list }]) => ({ [child]: list ? { some: key } : key }))]
  return [
    ...['connect', 'connectOrCreate', 'set', 'disconnect'].map((write) => ({ [write]: key })),
    ...rows.flatMap((row) => [
      { create: row },
      { create: [row] },
      { createMany: { data: [row] } },
      { update: { where: key, data: row } },
      { updateMany: [{ where: key, data: row }] },
      { upsert: { where: key, create: row, update: {} } },
      { upsert: [{ where: key, create: {}, update: row }] },
    ]),
    ...filters.flatMap((where) => [
      { update: [{ where, data: {} }] },
      { updateMany: { where, data: {} } },
      { upsert: { where, create: {}, update: {} } },
      { delete: where },
      { deleteMany: [where] },
    ]),
  ]
}

function relationsOf(model: string): [string, Relation][] {
  return Object.entries(dataModel[model]?.relations ?? {})
}
