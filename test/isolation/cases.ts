import { dataModel, type Relation } from '../../src/data/generated/data-model.ts'
import { userModels } from '../../src/data/tenant-filter.ts'
import {
  changes,
  freshRows,
  keyColumns,
  ownerColumn,
  type Party,
  pick,
  platformModels,
  type Row,
  type Rows,
  rowOf,
  uniqueFilters,
} from './rows.ts'

/** One operation that a party tries, with what it would need to reach the other party's rows. */
export type Case = { model: string; operation: string; writes: boolean; aim: string; args: Record<string, unknown> }

type Aims = Record<string, unknown>

/** The nested writes that are tried by way of every model. */
const plainWrites = new Set(['update', 'connect'])

/** Which relation, as `Model.name`, is the first of those that lead to the same model, to one row or to many. */
type FirstOf = (relation: Relation) => string | undefined

function firstOf(models: readonly string[]): FirstOf {
  const kindOf = ({ model, list }: Relation) => `${model} ${list}`
  const first = new Map<string, string>()
  for (const model of models) {
    for (const [name, relation] of Object.entries(shapeOf(model).relations)) {
      const kind = kindOf(relation)
      if (!first.has(kind)) first.set(kind, `${model}.${name}`)
    }
  }
  return (relation) => first.get(kindOf(relation))
}

/**
 * All that `own` could try against `other`: every operation, on every model whose rows the wall between them parts, and every
 * nested read and write that leads to such a model. Derived from the data model, so that nothing in it can be forgotten.
 */
export function casesOf(own: Party, other: Party): Case[] {
  const parted = own.wall.userId === null ? Object.keys(own.rows) : [...userModels]
  const fresh = freshRows(own)
  const models = Object.keys(dataModel).filter((model) => !platformModels.has(model))
  const writable = Object.keys(own.rows)
  return [
    ...parted.flatMap((model) => [
      ...readCases(model, own, other),
      ...uniqueReadCases(model, own, other),
      ...changeCases(model, own, other),
      ...createCases(model, own, other, fresh),
    ]),
    ...models.flatMap((model) => nestedReadCases(model, other, parted, firstOf(models))),
    ...writable.flatMap((model) => nestedWriteCases(model, own, other, fresh, parted, firstOf(writable))),
  ]
}

function expand(
  model: string,
  operations: readonly string[],
  writes: boolean,
  aims: Aims,
  argsOf: (value: unknown) => object,
): Case[] {
  return operations.flatMap((operation) =>
    Object.entries(aims).map(([aim, value]) => ({ model, operation, writes, aim, args: { ...argsOf(value) } })),
  )
}

/** Filters that name the other's rows, by each way there is to name them, and none at all. */
function filterAims(model: string, own: Party, other: Party): Record<string, Row | undefined> {
  const [mine, theirs] = [rowOf(own, model), rowOf(other, model)]
  const owner = ownerColumn(model, own.wall)
  const key = pick(theirs, keyColumns(model))
  const text = Object.keys(theirs).find((column) => theirs[column] === other.canary) ?? owner
  return {
    'no filter': undefined,
    "the other's key": key,
    "the other's owner": { [owner]: theirs[owner] },
    'a text of the other': { [text]: theirs[text] },
    'OR naming the other': { OR: [{ [owner]: theirs[owner] }, key, pick(mine, keyColumns(model))] },
    'AND of OR naming the other': { AND: [{ OR: [{ [owner]: mine[owner] }, { [owner]: theirs[owner] }] }, key] },
    'NOT the own owner': { NOT: { [owner]: mine[owner] } },
    'NOT the own key': { NOT: [pick(mine, keyColumns(model))] },
  }
}

function isFirstOfItsKind(model: string, own: Party): boolean {
  return model === Object.keys(own.rows).find((each) => ownerColumn(each, own.wall) === ownerColumn(model, own.wall))
}

/** Of two operations that take the same, one is tried with all of it. The other with two, but on the first model of its kind. */
function twoOf<T>(aims: Record<string, T>, model: string, own: Party): Record<string, T> {
  return isFirstOfItsKind(model, own) ? aims : Object.fromEntries(Object.entries(aims).slice(0, 2))
}

/** Filters for operations that take one as another does, which is tried with `more`. */
type Filters = { more: Record<string, Row | undefined>; few: Record<string, Row | undefined> }

/**
 * A wall does not ask how a filter is written, so all ways are tried on the first model alone whose rows have an owner like this one's.
 * On the others it is what makes sure that there is a wall.
 */
function filtersFor(model: string, own: Party, other: Party): Filters {
  const all = filterAims(model, own, other)
  const some = Object.fromEntries(Object.entries(all).filter((_, index) => index % 2 === 0))
  if (isFirstOfItsKind(model, own)) return { more: all, few: some }
  return { more: some, few: { 'no filter': undefined, "the other's owner": all["the other's owner"] } }
}

/** The column that says when a row is of. */
function timeOf(model: string): string {
  return shapeOf(model).scalars.find((field) => field === 'createdAt' || field === 'bucket') ?? ''
}

function readCases(model: string, own: Party, other: Party): Case[] {
  const { more, few } = filtersFor(model, own, other)
  const owner = ownerColumn(model, own.wall)
  return [
    ...expand(model, ['findMany'], false, more, (where) => ({ where })),
    ...expand(model, ['findFirst', 'findFirstOrThrow', 'count'], false, few, (where) => ({ where })),
    ...expand(model, ['aggregate'], false, few, (where) => ({
      where,
      _count: true,
      _max: { [timeOf(model)]: true, [owner]: owner !== 'id' && owner !== 'tenantId' },
    })),
    ...expand(model, ['groupBy'], false, few, (where) => ({ where, by: [owner], _count: true })),
    ...uniqueFilters(model, rowOf(other, model)).flatMap((cursor) =>
      expand(model, ['findMany'], false, { "a cursor at the other's": cursor }, (value) => ({ cursor: value })),
    ),
  ]
}

function uniqueAims(model: string, own: Party, other: Party): Aims {
  const owner = ownerColumn(model, own.wall)
  const [mine, theirs] = [rowOf(own, model), rowOf(other, model)]
  const either = { OR: [{ [owner]: mine[owner] }, { [owner]: theirs[owner] }] }
  const aims: Aims = {}
  for (const [index, filter] of uniqueFilters(model, theirs).entries()) {
    const name = Object.keys(filter)[0]
    aims[`the other's ${name}`] = filter
    aims[`the other's ${name}, either owner`] = { ...filter, ...either }
    aims[`the other's ${name} as one's own`] = uniqueFilters(model, { ...theirs, tenantId: mine['tenantId'] })[index]
    aims[`the own ${name}`] = uniqueFilters(model, mine)[index]
  }
  return aims
}

function uniqueReadCases(model: string, own: Party, other: Party): Case[] {
  const aims = uniqueAims(model, own, other)
  return [
    ...expand(model, ['findUnique'], false, aims, (where) => ({ where })),
    ...expand(model, ['findUniqueOrThrow'], false, twoOf(aims, model, own), (where) => ({ where })),
  ]
}

function changeCases(model: string, own: Party, other: Party): Case[] {
  const { more, few } = filtersFor(model, own, other)
  const unique = uniqueAims(model, own, other)
  const owner = ownerColumn(model, own.wall)
  const data = changes[model]
  const moved = { [owner]: rowOf(other, model)[owner] }
  const where = uniqueFilters(model, rowOf(own, model))[0]
  const away = { 'to the other': moved }
  return [
    ...expand(model, ['updateMany'], true, more, (value) => ({ where: value, data })),
    ...expand(model, ['updateManyAndReturn'], true, few, (value) => ({ where: value, data })),
    ...expand(model, ['deleteMany'], true, few, (value) => ({ where: value })),
    ...expand(model, ['update'], true, unique, (value) => ({ where: value, data })),
    ...expand(model, ['delete'], true, twoOf(unique, model, own), (value) => ({ where: value })),
    ...expand(model, ['update'], true, away, (value) => ({ where, data: value })),
    ...expand(model, ['updateMany', 'updateManyAndReturn'], true, away, (value) => ({ data: value })),
  ]
}

function createCases(model: string, own: Party, other: Party, fresh: Rows): Case[] {
  const aims = newRows(model, own, other, fresh)
  const include = selectable(model)
  const unique = uniqueAims(model, own, other)
  const create = fresh[model]
  return [
    ...expand(model, ['create'], true, aims, (data) => ({ data })),
    ...expand(model, ['create'], true, { 'with what it belongs to': create }, (data) => ({ data, include })),
    ...expand(model, ['createMany', 'createManyAndReturn'], true, twoOf(aims, model, own), (data) => ({ data: [data] })),
    ...expand(model, ['createMany'], true, aims, (data) => ({ data: [data], skipDuplicates: true })),
    ...expand(model, ['create'], true, connections(model, own, other, fresh), (data) => ({ data })),
    ...expand(model, ['upsert'], true, twoOf(unique, model, own), (where) => ({ where, create, update: changes[model] })),
    ...expand(model, ['upsert'], true, aims, (row) => ({
      ...{ where: uniqueFilters(model, row as Row)[0], create: row, update: changes[model] },
    })),
  ]
}

/**
 * Rows to insert: for the other, under keys that the other has taken, and pointing at the other's rows. Keys carry the tenant
 * and not the user: under one tenant a taken key is taken for all its users, and a foreign key can name another user's row.
 */
function newRows(model: string, own: Party, other: Party, fresh: Rows): Record<string, Row> {
  const [row, theirs] = [rowOf({ rows: fresh }, model), rowOf(other, model)]
  const owner = ownerColumn(model, own.wall)
  const aims: Record<string, Row> = { "one's own": row, "the other's": { ...row, [owner]: theirs[owner] } }
  if (own.wall.userId !== null || model === 'Tenant') return aims
  const { relations, compoundKeys } = shapeOf(model)
  for (const [name, relation] of Object.entries(relations)) {
    const columns = relation.from.filter((column) => column !== 'tenantId')
    if (columns.length > 0) aims[`one's own, with the other's ${name}`] = { ...row, ...pick(theirs, columns) }
  }
  const references = Object.values(relations).flatMap(({ from }) => from)
  const taken = Object.values(compoundKeys)
    .flat()
    .filter((column) => !references.includes(column))
  return { ...aims, "one's own, under the other's keys": { ...row, ...pick(theirs, taken) } }
}

/** A row to insert that is connected to one of the other's, relation by relation. */
function connections(model: string, own: Party, other: Party, fresh: Rows): Aims {
  const belongings = Object.entries(shapeOf(model).relations).filter(([, { from, model: to }]) => from.length > 0 && own.rows[to])
  const references = belongings.flatMap(([, { from }]) => from)
  const scalars = Object.fromEntries(
    Object.entries(rowOf({ rows: fresh }, model)).filter(([column]) => !references.includes(column)),
  )
  const { priceId, ...plain } = scalars
  const connect = (party: Party, { model: to }: Relation) => ({ connect: uniqueFilters(to, rowOf(party, to))[0] })
  return Object.fromEntries(
    belongings.map(([attacked]) => [
      `connected to the other's ${attacked}`,
      {
        ...plain,
        ...Object.fromEntries(belongings.map(([name, relation]) => [name, connect(name === attacked ? other : own, relation)])),
      },
    ]),
  )
}

/** Everything that rows of the model can be read with. */
function selectable(model: string): Record<string, unknown> {
  const relations = Object.entries(shapeOf(model).relations)
  const lists = relations.some(([, { list }]) => list)
  return { ...Object.fromEntries(relations.map(([name]) => [name, true])), ...(lists && { _count: true }) }
}

/**
 * Reads of the model's rows that take others along, or depend on them. What is beyond a relation is read by way of the `first` model
 * alone that has a relation like it: what another one would find there is the same.
 */
function nestedReadCases(model: string, other: Party, parted: readonly string[], first: FirstOf): Case[] {
  return Object.entries(shapeOf(model).relations).flatMap(([name, relation]) => {
    const beyond = selectable(relation.model)
    const isFirst = first(relation) === `${model}.${name}` && reaches(relation, parted)
    const alone = parted.includes(relation.model) ? { alone: true } : {}
    const all = isFirst ? { 'with all of its own': { include: beyond } } : {}
    const lists = isFirst ? { 'with its lists': { include: listsOf(beyond, relation.model) } } : {}
    const seen: Case[] = [
      ...expand(model, ['findMany'], false, { ...alone, ...all }, (value) => ({ include: { [name]: value } })),
      ...expand(model, ['findMany'], false, isFirst ? { ...alone, ...lists } : {}, (value) => ({ select: { [name]: value } })),
    ].map((attempt) => ({ ...attempt, aim: `${name} ${attempt.aim}` }))
    return parted.includes(relation.model) ? [...seen, ...conditionCases(model, name, relation, other, isFirst)] : seen
  })
}

/**
 * Reads by conditions on what is beyond the relation: where it `isFirst` of its kind by all there are, elsewhere by one that is true of
 * any row and one that names the other's.
 */
function conditionCases(model: string, name: string, relation: Relation, other: Party, isFirst: boolean): Case[] {
  const key = pick(rowOf(other, relation.model), keyColumns(relation.model))
  const conditions: Record<string, Row> = relation.list
    ? {
        some: { some: {} },
        'some of theirs': { some: key },
        none: { none: {} },
        'none of theirs': { none: key },
        every: { every: { NOT: key } },
      }
    : { either: { OR: [key, {}] }, theirs: key, 'is theirs': { is: key }, 'is not theirs': { isNot: key } }
  const aims = named(name, conditions)
  const plain = Object.fromEntries(Object.entries(aims).slice(0, 2))
  const filtered = expand(model, ['findMany'], false, isFirst ? aims : plain, (where) => ({ where }))
  if (!isFirst) return filtered
  filtered.push(...expand(model, ['count'], false, plain, (where) => ({ where })))
  if (!relation.list) return filtered
  const lists = named(name, { theirs: { where: key }, either: { where: { OR: [key, {}] } } })
  const counts = named(name, { all: true, theirs: { where: key } })
  return [
    ...filtered,
    ...expand(model, ['findMany'], false, lists, (include) => ({ include })),
    ...expand(model, ['findMany'], false, counts, (select) => ({ include: { _count: { select } } })),
    ...expand(model, ['findMany'], false, named(name, { order: { _count: 'desc' } }), (orderBy) => ({ orderBy })),
  ]
}

function named(relation: string, values: Aims): Aims {
  return Object.fromEntries(Object.entries(values).map(([aim, value]) => [`${relation}: ${aim}`, { [relation]: value }]))
}

function listsOf(selection: Record<string, unknown>, model: string): Record<string, unknown> {
  const { relations } = shapeOf(model)
  return Object.fromEntries(Object.entries(selection).filter(([name]) => relations[name]?.list ?? true))
}

/**
 * Writes to the rows below the own one that name the other's, and below the other's: every way there is by way of the `first` model
 * with such a relation, and by way of the others one that changes and one that takes over.
 */
function nestedWriteCases(
  model: string,
  own: Party,
  other: Party,
  fresh: Rows,
  parted: readonly string[],
  first: FirstOf,
): Case[] {
  const cases: Case[] = []
  const where = uniqueFilters(model, rowOf(own, model))[0]
  for (const [name, relation] of Object.entries(shapeOf(model).relations)) {
    if (!own.rows[relation.model] || !parted.includes(relation.model)) continue
    const theirs = rowOf(other, relation.model)
    const unique = uniqueFilters(relation.model, theirs)[0]
    const key = pick(theirs, keyColumns(relation.model))
    const data = changes[relation.model]
    const create = childOf(model, relation, rowOf({ rows: fresh }, relation.model))
    const writes: Aims = relation.list
      ? {
          create,
          createMany: { data: [create] },
          update: { where: unique, data },
          updateMany: { where: key, data },
          upsert: { where: unique, create, update: data },
          delete: unique,
          deleteMany: key,
          connect: unique,
          connectOrCreate: { where: unique, create },
          disconnect: unique,
          set: [unique],
        }
      : { connect: unique, update: data, delete: true }
    const isFirst = first(relation) === `${model}.${name}`
    const ways = Object.entries(writes).filter(([write]) => isFirst || plainWrites.has(write))
    const aims = Object.fromEntries(ways.map(([write, value]) => [`${name}: ${write}`, { [name]: { [write]: value } }]))
    cases.push(...expand(model, ['update'], true, aims, (value) => ({ where, data: value })))
  }
  return cases
}

/** A row as it is written below its parent, which gives it the columns of the key between them. */
function childOf(parent: string, relation: Relation, row: Row): Row {
  const back = Object.values(shapeOf(relation.model).relations).find(({ model, from }) => model === parent && from.length > 0)
  return Object.fromEntries(Object.entries(row).filter(([column]) => !back?.from.includes(column)))
}

function reaches(relation: Relation, parted: readonly string[]): boolean {
  return (
    parted.includes(relation.model) ||
    Object.values(shapeOf(relation.model).relations).some(({ model }) => parted.includes(model))
  )
}

function shapeOf(model: string) {
  const shape = dataModel[model]
  if (!shape) throw new Error(`No model ${model}.`)
  return shape
}
