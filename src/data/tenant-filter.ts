import { dataModel, type ModelShape, type Relation } from './generated/data-model.ts'
import type { Wall } from './scoped-query.ts'

/**
 * The first wall: rewrites the arguments of a Prisma operation so that it can only name rows of the wall's tenant
 * and, for an end user, only that user's. Pure; what it does not know it refuses.
 */

/** Raised for an operation or argument that the filter has no rule for. */
export class UnscopedOperation extends Error {
  constructor(what: string) {
    super(`${what} is not possible inside a tenant scope.`)
    this.name = 'UnscopedOperation'
  }
}

/** Platform-wide tables that every tenant may read. */
export const readableGlobals: ReadonlySet<string> = new Set(['Price', 'PlanLimits'])

/** Models whose rows belong to one end user; their tables carry the `user_wall` policy. */
export const userModels: ReadonlySet<string> = new Set(['Conversation', 'Message', 'Run', 'ToolCall', 'UserPseudonym'])

type Args = Record<string, unknown>
type Rule = (model: string, args: Args, wall: Wall) => Args

/** What each operation's arguments become. `findUnique` is missing on purpose: it is turned into `findFirst` before. */
const rules: Readonly<Record<string, Rule>> = {
  findFirst: restrictRead,
  findFirstOrThrow: restrictRead,
  findMany: restrictRead,
  count: restrictRead,
  aggregate: restrictRead,
  groupBy: restrictRead,
  create: (model, args, wall) => ({ ...restrictSelection(model, args, wall), data: ownRow(model, args['data'], wall) }),
  createMany: (model, args, wall) => ({ ...args, data: ownRows(model, args['data'], wall) }),
  createManyAndReturn: (model, args, wall) => ({
    ...restrictSelection(model, args, wall),
    data: ownRows(model, args['data'], wall),
  }),
  update: restrictUpdate,
  updateMany: restrictUpdate,
  updateManyAndReturn: restrictUpdate,
  upsert: (model, args, wall) => ({
    ...restrictSelection(model, args, wall),
    where: restrictWhere(model, args['where'], wall),
    create: ownRow(model, args['create'], wall),
    update: restrictChange(model, args['update'], wall),
  }),
  delete: (model, args, wall) => ({
    ...restrictSelection(model, args, wall),
    where: restrictWhere(model, args['where'], wall),
  }),
  deleteMany: (model, args, wall) => ({ ...args, where: restrictWhere(model, args['where'], wall) }),
}

const writes = new Set([
  'create',
  'createMany',
  'createManyAndReturn',
  'update',
  'updateMany',
  'updateManyAndReturn',
  'upsert',
  'delete',
  'deleteMany',
])

/** The arguments of `operation` on `model` behind `wall`. Throws UnscopedOperation for what it has no rule for. */
export function restrict(model: string, operation: string, args: unknown, wall: Wall): Args {
  const rule = Object.hasOwn(rules, operation) ? rules[operation] : undefined
  if (!rule) throw new UnscopedOperation(`${model}.${operation}`)
  if (readableGlobals.has(model) && writes.has(operation)) throw new UnscopedOperation(`Writing ${model}`)
  return rule(model, asArgs(args), wall)
}

/** A unique filter as a plain one: compound keys, as in `{ tenantId_id: { … } }`, become their columns. */
export function plainWhere(model: string, where: unknown): Args {
  const { compoundKeys } = shapeOf(model)
  const plain: Args = {}
  for (const [key, value] of Object.entries(asArgs(where))) {
    if (Object.hasOwn(compoundKeys, key)) Object.assign(plain, asArgs(value))
    else plain[key] = value
  }
  return plain
}

function restrictRead(model: string, args: Args, wall: Wall): Args {
  if (args['cursor'] !== undefined) throw new UnscopedOperation(`${model} with a Prisma cursor`)
  refuseRelationOrder(model, args['orderBy'])
  return { ...restrictSelection(model, args, wall), where: restrictWhere(model, args['where'], wall) }
}

function restrictUpdate(model: string, args: Args, wall: Wall): Args {
  return {
    ...restrictSelection(model, args, wall),
    where: restrictWhere(model, args['where'], wall),
    data: restrictChange(model, args['data'], wall),
  }
}

/** The columns that the wall fixes on `model`, with their values. */
function wallOf(model: string, wall: Wall): Args {
  if (readableGlobals.has(model)) return {}
  if (model === 'Tenant') return { id: wall.tenantId }
  if (!shapeOf(model).scalars.includes('tenantId')) throw new UnscopedOperation(`Reading ${model}`)
  const own: Args = { tenantId: wall.tenantId }
  if (wall.userId !== null && userModels.has(model)) own['userId'] = wall.userId
  return own
}

/** `where` and the wall. Keeps the other keys at the top level, where unique filters must have their key. */
function restrictWhere(model: string, where: unknown, wall: Wall): Args {
  const { AND, ...rest } = restrictRelationFilters(model, where, wall)
  return { ...rest, AND: [...asList(AND), wallOf(model, wall)] }
}

/** Puts the wall into each relation filter of `where`, so that no condition on another row can be probed. */
function restrictRelationFilters(model: string, where: unknown, wall: Wall): Args {
  const { relations } = shapeOf(model)
  const result: Args = {}
  for (const [key, value] of Object.entries(asArgs(where))) {
    if (key === 'AND' || key === 'OR' || key === 'NOT') {
      result[key] = Array.isArray(value)
        ? value.map((part) => restrictRelationFilters(model, part, wall))
        : value && restrictRelationFilters(model, value, wall)
    } else {
      const relation = relations[key]
      result[key] = relation && value ? restrictRelationFilter(relation, asArgs(value), wall) : value
    }
  }
  return result
}

function restrictRelationFilter(relation: Relation, filter: Args, wall: Wall): Args {
  const inside = (value: unknown) => value && restrictWhere(relation.model, value, wall)
  const kinds = Object.keys(filter)
  if (relation.list) {
    const { some, none, every, ...unknown } = filter
    refuseOthers(unknown, 'The relation filter')
    return {
      ...(some === undefined ? {} : { some: inside(some) }),
      ...(none === undefined ? {} : { none: inside(none) }),
      ...(every === undefined ? {} : { every: { OR: [inside(every), { NOT: wallOf(relation.model, wall) }] } }),
    }
  }
  if (kinds.some((kind) => kind === 'is' || kind === 'isNot')) {
    const { is, isNot, ...unknown } = filter
    refuseOthers(unknown, 'The relation filter')
    return {
      ...(is === undefined ? {} : { is: inside(is) }),
      ...(isNot === undefined ? {} : { isNot: inside(isNot) }),
    }
  }
  return { is: inside(filter) }
}

/** Puts the wall into nested reads. A to-one relation needs none between tenants: its composite key contains the tenant. */
function restrictSelection(model: string, args: Args, wall: Wall): Args {
  const result = { ...args }
  for (const part of ['include', 'select'] as const) {
    if (args[part]) result[part] = restrictSelected(model, asArgs(args[part]), wall)
  }
  return result
}

function restrictSelected(model: string, selected: Args, wall: Wall): Args {
  const { relations } = shapeOf(model)
  const result: Args = { ...selected }
  for (const [key, value] of Object.entries(selected)) {
    if (!value) continue
    const relation = relations[key]
    if (key === '_count') result[key] = restrictCounts(model, value, wall)
    else if (relation?.list) result[key] = restrictRead(relation.model, value === true ? {} : asArgs(value), wall)
    else if (relation) result[key] = restrictToOne(relation, value, wall)
  }
  return result
}

/** Refused where the wall is between users too: a key does not contain the user, and Prisma filters no to-one relation. */
function restrictToOne(relation: Relation, value: unknown, wall: Wall): unknown {
  if (wall.userId !== null && userModels.has(relation.model))
    throw new UnscopedOperation(`Reading ${relation.model} through a key`)
  return value === true ? true : restrictSelection(relation.model, asArgs(value), wall)
}

function restrictCounts(model: string, value: unknown, wall: Wall): Args {
  const { relations } = shapeOf(model)
  const lists = Object.keys(relations).filter((name) => relations[name]?.list)
  const chosen = value === true ? Object.fromEntries(lists.map((name) => [name, true])) : asArgs(asArgs(value)['select'])
  const select: Args = {}
  for (const [name, count] of Object.entries(chosen)) {
    const relation = relations[name]
    if (!relation || !count) continue
    select[name] = { where: restrictWhere(relation.model, count === true ? {} : asArgs(count)['where'], wall) }
  }
  return { select }
}

/** A row to insert, made the wall's own. A value that contradicts the wall is refused, never overwritten. */
function ownRow(model: string, data: unknown, wall: Wall): Args {
  if (model === 'Tenant') throw new UnscopedOperation('Creating a tenant')
  const row = restrictNested(model, asArgs(data), wall)
  for (const [column, value] of Object.entries(wallOf(model, wall))) {
    if (row[column] !== undefined && row[column] !== value) throw new UnscopedOperation(`${model} of another ${column}`)
    row[column] = value
  }
  return row
}

function ownRows(model: string, data: unknown, wall: Wall): Args[] {
  return asList(data).map((row) => ownRow(model, row, wall))
}

/** A row inserted through its parent: the parent gives it its tenant, the wall its user. */
function ownChild(relation: Relation, data: unknown, wall: Wall): Args {
  const { tenantId, ...row } = ownRow(relation.model, data, wall)
  return row
}

/** Changes to existing rows. What the wall fixes cannot be changed. */
function restrictChange(model: string, data: unknown, wall: Wall): Args {
  const change = restrictNested(model, asArgs(data), wall)
  for (const column of Object.keys(wallOf(model, wall))) {
    if (change[column] !== undefined) throw new UnscopedOperation(`Changing ${model}.${column}`)
  }
  return change
}

/** Walks nested writes. Those that would move a row to another parent are refused: keys are set as scalars. */
function restrictNested(model: string, data: Args, wall: Wall): Args {
  const { relations } = shapeOf(model)
  const result: Args = { ...data }
  for (const [key, value] of Object.entries(data)) {
    const relation = relations[key]
    if (!relation || value === undefined) continue
    if (relation.from.length > 0) throw new UnscopedOperation(`Writing through ${model}.${key} (set its key instead)`)
    result[key] = restrictNestedWrite(relation, asArgs(value), wall)
  }
  return result
}

function restrictNestedWrite(relation: Relation, write: Args, wall: Wall): Args {
  const { model } = relation
  const { create, createMany, update, updateMany, upsert, delete: remove, deleteMany, ...unknown } = write
  refuseOthers(unknown, 'The nested write')
  const each = (value: unknown, change: (item: Args) => Args) =>
    Array.isArray(value) ? value.map((item) => change(asArgs(item))) : change(asArgs(value))
  const updateOne = (item: Args) => ({
    where: restrictWhere(model, item['where'], wall),
    data: restrictChange(model, item['data'], wall),
  })
  return {
    ...(create === undefined ? {} : { create: each(create, (row) => ownChild(relation, row, wall)) }),
    ...(createMany === undefined
      ? {}
      : {
          createMany: {
            ...asArgs(createMany),
            data: asList(asArgs(createMany)['data']).map((row) => ownChild(relation, row, wall)),
          },
        }),
    ...(update === undefined ? {} : { update: each(update, updateOne) }),
    ...(updateMany === undefined ? {} : { updateMany: each(updateMany, updateOne) }),
    ...(upsert === undefined
      ? {}
      : {
          upsert: each(upsert, (item) => ({
            where: restrictWhere(model, item['where'], wall),
            create: ownChild(relation, item['create'], wall),
            update: restrictChange(model, item['update'], wall),
          })),
        }),
    ...(remove === undefined ? {} : { delete: each(remove, (where) => restrictWhere(model, where, wall)) }),
    ...(deleteMany === undefined ? {} : { deleteMany: each(deleteMany, (where) => restrictWhere(model, where, wall)) }),
  }
}

/** Ordering by another table's column or count would tell about rows outside the wall. */
function refuseRelationOrder(model: string, orderBy: unknown): void {
  const { relations } = shapeOf(model)
  for (const order of asList(orderBy)) {
    for (const key of Object.keys(asArgs(order))) {
      if (relations[key]) throw new UnscopedOperation(`Ordering ${model} by ${key}`)
    }
  }
}

function refuseOthers(unknown: Args, what: string): void {
  const [name] = Object.keys(unknown)
  if (name !== undefined) throw new UnscopedOperation(`${what} '${name}'`)
}

function shapeOf(model: string): ModelShape {
  const shape = Object.hasOwn(dataModel, model) ? dataModel[model] : undefined
  if (!shape) throw new UnscopedOperation(`The model ${model}`)
  return shape
}

function asArgs(value: unknown): Args {
  if (value === undefined || value === null) return {}
  if (typeof value !== 'object' || Array.isArray(value)) throw new UnscopedOperation('An argument that is no object')
  return value as Args
}

function asList(value: unknown): unknown[] {
  if (value === undefined || value === null) return []
  return Array.isArray(value) ? value : [value]
}
