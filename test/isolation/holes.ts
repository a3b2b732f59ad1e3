import { isDeepStrictEqual } from 'node:util'
import { dataModel, type Relation } from '../../src/data/generated/data-model.ts'
import type { Wall } from '../../src/data/scoped-query.ts'
import { readableGlobals, userModels } from '../../src/data/tenant-filter.ts'

/**
 * Where arguments of an operation reach past the wall, said a second time and in another way than the filter says it: the filter
 * writes arguments, this reads them. `open` can be closed by adding the wall; `forbidden` can only be refused.
 */
export type Hole = { at: string; kind: 'open' | 'forbidden' }

type Args = Readonly<Record<string, unknown>>

const reads = new Set(['findFirst', 'findFirstOrThrow', 'findMany', 'count', 'aggregate', 'groupBy'])
const nestedWrites = new Set(['create', 'createMany', 'update', 'updateMany', 'upsert', 'delete', 'deleteMany'])

/** Every hole in the arguments of `operation` on `model`. */
export function holesIn(model: string, operation: string, args: Args, wall: Wall): Hole[] {
  return [...new Holes(wall).inOperation(model, operation, args)]
}

class Holes {
  readonly #wall: Wall

  constructor(wall: Wall) {
    this.#wall = wall
  }

  *inOperation(model: string, operation: string, args: Args): Generator<Hole> {
    const { where, data, create, update } = args
    if (!Object.hasOwn(dataModel, model)) return yield forbidden(`the model ${model}`)
    if (!readableGlobals.has(model) && Object.keys(this.#fixed(model)).length === 0) yield forbidden(`the model ${model}`)
    if (reads.has(operation)) return yield* this.#inRead(model, args, operation)
    if (readableGlobals.has(model)) yield forbidden(`writing ${model}`)
    yield* this.#inSelection(model, args, operation)
    switch (operation) {
      case 'create':
      case 'createMany':
      case 'createManyAndReturn':
        for (const row of listOf(data)) yield* this.#inRow(model, row, 'data')
        return
      case 'update':
      case 'updateMany':
      case 'updateManyAndReturn':
        yield* this.#inChange(model, data, 'data')
        return yield* this.#inWhere(model, where, 'where')
      case 'upsert':
        yield* this.#inRow(model, create, 'create')
        yield* this.#inChange(model, update, 'update')
        return yield* this.#inWhere(model, where, 'where')
      case 'delete':
      case 'deleteMany':
        return yield* this.#inWhere(model, where, 'where')
      default:
        yield forbidden(operation)
    }
  }

  /** What every row of the model behind the wall has. */
  #fixed(model: string): Args {
    const { tenantId, userId } = this.#wall
    if (model === 'Tenant') return { id: tenantId }
    if (!dataModel[model]?.scalars.includes('tenantId')) return {}
    return { tenantId, ...(userId !== null && userModels.has(model) && { userId }) }
  }

  *#inRead(model: string, value: unknown, at: string): Generator<Hole> {
    const args = argsOf(value)
    if (args['cursor'] !== undefined) yield forbidden(`${at}.cursor`)
    for (const order of listOf(args['orderBy'])) {
      for (const key of Object.keys(argsOf(order))) if (relationOf(model, key)) yield forbidden(`${at}.orderBy.${key}`)
    }
    yield* this.#inWhere(model, args['where'], `${at}.where`)
    yield* this.#inSelection(model, args, at)
  }

  *#inWhere(model: string, where: unknown, at: string): Generator<Hole> {
    if (Array.isArray(where) || typeof (where ?? {}) !== 'object') yield forbidden(at)
    const fixed = this.#fixed(model)
    const walled = listOf(argsOf(where)['AND']).some((part) => isDeepStrictEqual(part, fixed))
    if (!walled && !readableGlobals.has(model)) yield { at, kind: 'open' }
    yield* this.#inConditions(model, where, at)
  }

  *#inConditions(model: string, where: unknown, at: string): Generator<Hole> {
    for (const [key, value] of Object.entries(argsOf(where))) {
      const relation = relationOf(model, key)
      if (['AND', 'OR', 'NOT'].includes(key)) for (const part of listOf(value)) yield* this.#inConditions(model, part, at)
      else if (relation && value) yield* this.#inRelationFilter(relation, argsOf(value), `${at}.${key}`)
    }
  }

  *#inRelationFilter(relation: Relation, filter: Args, at: string): Generator<Hole> {
    const kinds = relation.list ? ['some', 'none', 'every'] : ['is', 'isNot']
    if (!relation.list && !kinds.some((kind) => kind in filter)) return yield* this.#inWhere(relation.model, filter, at)
    for (const [kind, value] of Object.entries(filter)) {
      if (!kinds.includes(kind)) yield forbidden(`${at}.${kind}`)
      else if (kind === 'every') yield* this.#inEvery(relation.model, argsOf(value), at)
      else if (value) yield* this.#inWhere(relation.model, value, `${at}.${kind}`)
    }
  }

  /** Every row is the party's own and fulfils it, or is not the party's. */
  *#inEvery(model: string, every: Args, at: string): Generator<Hole> {
    const [own, others] = listOf(every['OR'])
    yield* this.#inWhere(model, own, `${at}.every`)
    if (!readableGlobals.has(model) && !isDeepStrictEqual(others, { NOT: this.#fixed(model) })) yield { at, kind: 'open' }
  }

  *#inSelection(model: string, value: unknown, at: string): Generator<Hole> {
    const { include, select } = argsOf(value)
    for (const [key, part] of [...Object.entries(argsOf(include)), ...Object.entries(argsOf(select))]) {
      const relation = relationOf(model, key)
      const below = `${at}.${key}`
      if (!part) continue
      if (key === '_count') yield* this.#inCounts(model, part, below)
      else if (relation?.list) yield* this.#inRead(relation.model, part, below)
      else if (relation) {
        if ('userId' in this.#fixed(relation.model)) yield forbidden(below)
        yield* this.#inSelection(relation.model, part, below)
      }
    }
  }

  *#inCounts(model: string, counts: unknown, at: string): Generator<Hole> {
    if (counts === true) return yield { at, kind: 'open' }
    for (const [key, count] of Object.entries(argsOf(argsOf(counts)['select']))) {
      const relation = relationOf(model, key)
      if (relation) yield* this.#inWhere(relation.model, argsOf(count)['where'], `${at}.${key}`)
    }
  }

  /** A row to insert. Below a parent it has the parent's tenant. */
  *#inRow(model: string, row: unknown, at: string, belowParent = false): Generator<Hole> {
    if (model === 'Tenant') yield forbidden(at)
    const values = argsOf(row)
    for (const [column, value] of Object.entries(this.#fixed(model))) {
      const inherited = belowParent && column === 'tenantId'
      if (values[column] === undefined) {
        if (!inherited) yield { at: `${at}.${column}`, kind: 'open' }
      } else if (values[column] !== value) yield forbidden(`${at}.${column}`)
    }
    yield* this.#inNestedWrites(model, values, at)
  }

  *#inChange(model: string, data: unknown, at: string): Generator<Hole> {
    const values = argsOf(data)
    for (const column of Object.keys(this.#fixed(model))) if (values[column] !== undefined) yield forbidden(`${at}.${column}`)
    yield* this.#inNestedWrites(model, values, at)
  }

  *#inNestedWrites(model: string, data: Args, at: string): Generator<Hole> {
    for (const [key, value] of Object.entries(data)) {
      const relation = relationOf(model, key)
      if (!relation || value === undefined) continue
      if (relation.from.length > 0) yield forbidden(`${at}.${key}`)
      for (const [write, items] of Object.entries(argsOf(value))) {
        if (!nestedWrites.has(write)) yield forbidden(`${at}.${key}.${write}`)
        else for (const item of listOf(items)) yield* this.#inNestedWrite(relation.model, write, item, `${at}.${key}.${write}`)
      }
    }
  }

  *#inNestedWrite(model: string, write: string, item: unknown, at: string): Generator<Hole> {
    const { where, data, create, update } = argsOf(item)
    if (write === 'create') yield* this.#inRow(model, item, at, true)
    if (write === 'createMany') for (const row of listOf(data)) yield* this.#inRow(model, row, at, true)
    if (write === 'upsert') yield* this.#inRow(model, create, at, true)
    if (write === 'upsert') yield* this.#inChange(model, update, at)
    if (write === 'update' || write === 'updateMany') yield* this.#inChange(model, data, at)
    if (['update', 'updateMany', 'upsert'].includes(write)) yield* this.#inWhere(model, where, at)
    if (write === 'delete' || write === 'deleteMany') yield* this.#inWhere(model, item, at)
  }
}

function forbidden(at: string): Hole {
  return { at, kind: 'forbidden' }
}

function relationOf(model: string, key: string): Relation | undefined {
  return dataModel[model]?.relations[key]
}

function argsOf(value: unknown): Args {
  return typeof value === 'object' && value !== null ? (value as Args) : {}
}

function listOf(value: unknown): unknown[] {
  if (value === undefined) return []
  return Array.isArray(value) ? value : [value]
}
