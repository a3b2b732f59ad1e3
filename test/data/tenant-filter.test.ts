// @module-tag two-walls
import { describe, expect, it } from 'vitest'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { plainWhere, readableGlobals, restrict, UnscopedOperation, userModels } from '../../src/data/tenant-filter.ts'

const tenantId = '01900000-0000-7000-8000-00000000000a'
const other = '01900000-0000-7000-8000-00000000000b'
const staff = { tenantId, userId: null }
const endUser = { tenantId, userId: 'ann' }
const own = { tenantId }
const anns = { tenantId, userId: 'ann' }

describe('reads', () => {
  it.each(['findFirst', 'findFirstOrThrow', 'findMany', 'count', 'aggregate', 'groupBy'])('%s carries the wall', (operation) => {
    expect(restrict('Agent', operation, { where: { slug: 'x' } }, staff)).toEqual({ where: { slug: 'x', AND: [own] } })
    expect(restrict('Agent', operation, undefined, staff)).toEqual({ where: { AND: [own] } })
  })

  it("carries the end user's wall on the models that belong to one user", () => {
    for (const model of userModels) expect(restrict(model, 'findMany', {}, endUser).where).toEqual({ AND: [anns] })
    expect(restrict('Agent', 'findMany', {}, endUser).where).toEqual({ AND: [own] })
  })

  it('keeps the conditions that are there, whatever they say', () => {
    const where = { tenantId: other, OR: [{ id: '1' }, { tenantId: other }], AND: [{ id: '2' }], NOT: { id: '3' } }
    expect(restrict('Agent', 'findMany', { where }, staff).where).toEqual({ ...where, AND: [{ id: '2' }, own] })
  })

  it('puts the wall into nested lists, counts and what they include in turn', () => {
    const include = { conversations: { include: { messages: true } }, _count: { select: { runs: true } } }
    expect(restrict('Agent', 'findMany', { include }, endUser).include).toEqual({
      conversations: { where: { AND: [anns] }, include: { messages: { where: { AND: [anns] } } } },
      _count: { select: { runs: { where: { AND: [anns] } } } },
    })
    expect(
      restrict('Message', 'findMany', { select: { conversation: { select: { runs: { take: 1 } } } } }, staff).select,
    ).toEqual({
      conversation: { select: { runs: { take: 1, where: { AND: [own] } } } },
    })
    expect(restrict('Conversation', 'findMany', { include: { _count: true } }, staff).include).toEqual({
      _count: { select: { messages: { where: { AND: [own] } }, runs: { where: { AND: [own] } } } },
    })
  })

  it('puts the wall into conditions on other rows', () => {
    const where = { conversations: { some: { title: 'x' } } }
    expect(restrict('Agent', 'findMany', { where }, endUser).where).toEqual({
      conversations: { some: { title: 'x', AND: [anns] } },
      AND: [own],
    })
    const every = { OR: [{ conversations: { every: { title: 'x' }, none: { title: 'y' } } }] }
    expect(restrict('Agent', 'findMany', { where: every }, endUser).where).toEqual({
      OR: [
        {
          conversations: { every: { OR: [{ title: 'x', AND: [anns] }, { NOT: anns }] }, none: { title: 'y', AND: [anns] } },
        },
      ],
      AND: [own],
    })
    expect(restrict('Message', 'findMany', { where: { run: { model: 'm' } } }, staff).where).toEqual({
      run: { is: { model: 'm', AND: [own] } },
      AND: [own],
    })
    expect(restrict('Message', 'findMany', { where: { run: { isNot: { model: 'm' } } } }, staff).where).toEqual({
      run: { isNot: { model: 'm', AND: [own] } },
      AND: [own],
    })
  })

  it('lets every tenant read the platform-wide prices, and change none', () => {
    expect(restrict('Price', 'findMany', {}, staff)).toEqual({ where: { AND: [{}] } })
    for (const operation of ['create', 'update', 'deleteMany', 'upsert']) {
      expect(() => restrict('Price', operation, { data: {} }, staff)).toThrow(UnscopedOperation)
    }
  })

  it("sees its own tenant's row alone", () => {
    expect(restrict('Tenant', 'findMany', {}, staff).where).toEqual({ AND: [{ id: tenantId }] })
  })
})

describe('writes', () => {
  it('makes new rows its own', () => {
    expect(restrict('Agent', 'create', { data: { slug: 'x' } }, staff).data).toEqual({ slug: 'x', tenantId })
    expect(restrict('Run', 'createMany', { data: [{ id: '1' }, { id: '2' }] }, endUser).data).toEqual([
      { id: '1', tenantId, userId: 'ann' },
      { id: '2', tenantId, userId: 'ann' },
    ])
  })

  it('refuses a new row of somebody else', () => {
    expect(() => restrict('Agent', 'create', { data: { tenantId: other } }, staff)).toThrow(UnscopedOperation)
    expect(() => restrict('Run', 'create', { data: { userId: 'bob' } }, endUser)).toThrow(UnscopedOperation)
  })

  it('restricts what it changes and removes', () => {
    expect(restrict('Agent', 'updateMany', { where: { id: '1' }, data: { name: 'x' } }, staff)).toEqual({
      where: { id: '1', AND: [own] },
      data: { name: 'x' },
    })
    const key = { tenantId_id: { tenantId: other, id: '1' } }
    expect(restrict('Agent', 'delete', { where: key }, staff).where).toEqual({ ...key, AND: [own] })
    expect(restrict('Conversation', 'upsert', { where: key, create: { id: '1' }, update: { title: 'x' } }, endUser)).toEqual({
      where: { ...key, AND: [anns] },
      create: { id: '1', tenantId, userId: 'ann' },
      update: { title: 'x' },
    })
  })

  it('never moves a row to another tenant or user', () => {
    expect(() => restrict('Agent', 'update', { where: {}, data: { tenantId } }, staff)).toThrow(UnscopedOperation)
    expect(() => restrict('Run', 'updateMany', { data: { userId: 'bob' } }, endUser)).toThrow(UnscopedOperation)
    expect(() => restrict('Tenant', 'update', { where: {}, data: { id: other } }, staff)).toThrow(UnscopedOperation)
    expect(() => restrict('Tenant', 'create', { data: { id: other } }, staff)).toThrow(UnscopedOperation)
  })

  it('walks nested writes', () => {
    const data = {
      messages: { create: { id: '1' }, createMany: { data: [{ id: '2' }] }, deleteMany: { id: '3' } },
      runs: { update: { where: { id: '4' }, data: { model: 'x' } }, updateMany: [{ where: { id: '5' }, data: {} }] },
    }
    expect(restrict('Conversation', 'update', { where: { id: '0' }, data }, endUser).data).toEqual({
      messages: {
        create: { id: '1', userId: 'ann' },
        createMany: { data: [{ id: '2', userId: 'ann' }] },
        deleteMany: { id: '3', AND: [anns] },
      },
      runs: {
        update: { where: { id: '4', AND: [anns] }, data: { model: 'x' } },
        updateMany: [{ where: { id: '5', AND: [anns] }, data: {} }],
      },
    })
    expect(() => restrict('Conversation', 'create', { data: { messages: { create: { tenantId: other } } } }, staff)).toThrow(
      UnscopedOperation,
    )
  })

  it.each(['connect', 'connectOrCreate', 'set', 'disconnect'])(
    'refuses a nested %s, which would move a row to another parent',
    (kind) => {
      expect(() => restrict('Conversation', 'update', { data: { messages: { [kind]: { id: '1' } } } }, staff)).toThrow(
        UnscopedOperation,
      )
      expect(() => restrict('Conversation', 'create', { data: { agent: { [kind]: { id: '1' } } } }, staff)).toThrow(
        UnscopedOperation,
      )
    },
  )
})

describe('what it does not know', () => {
  it.each(['findUnique', 'findRaw', 'aggregateRaw', 'constructor', '__proto__', 'somethingNew'])(
    'refuses the operation %s',
    (operation) => {
      expect(() => restrict('Agent', operation, {}, staff)).toThrow(UnscopedOperation)
    },
  )

  it.each(['OperatorKey', 'Worker', 'Nothing', 'constructor'])('refuses the model %s', (model) => {
    expect(() => restrict(model, 'findMany', {}, staff)).toThrow(UnscopedOperation)
  })

  it('refuses arguments that would reach past the wall', () => {
    expect(() => restrict('Agent', 'findMany', { cursor: { id: '1' } }, staff)).toThrow(UnscopedOperation)
    expect(() => restrict('Agent', 'findMany', { orderBy: { conversations: { _count: 'asc' } } }, staff)).toThrow(
      UnscopedOperation,
    )
    expect(() => restrict('Agent', 'findMany', { include: { conversations: { cursor: { id: '1' } } } }, staff)).toThrow(
      UnscopedOperation,
    )
    expect(() => restrict('Agent', 'findMany', { where: { conversations: { any: {} } } }, staff)).toThrow(UnscopedOperation)
  })
})

describe('the data model', () => {
  const models = Object.entries(dataModel)

  it('has a rule for every model', () => {
    const refused = models
      .map(([name]) => name)
      .filter((name) => {
        try {
          restrict(name, 'findMany', {}, staff)
          return false
        } catch {
          return true
        }
      })
    expect(refused).toEqual(['OperatorKey', 'Worker', 'OperatorIdempotencyKey', 'Erasure', 'Database', 'TenantMove'])
  })

  it('reaches no row outside the wall through a to-one relation', () => {
    for (const [name, { relations }] of models) {
      for (const relation of Object.values(relations)) {
        if (relation.from.length === 0 || readableGlobals.has(relation.model)) continue
        expect(relation.from[0], `${name} → ${relation.model}`).toBe(name === 'Tenant' ? 'id' : 'tenantId')
        if (userModels.has(relation.model)) expect(userModels.has(name), `${name} → ${relation.model}`).toBe(true)
      }
    }
  })

  it('flattens compound keys', () => {
    expect(plainWhere('Agent', { tenantId_slug: { tenantId, slug: 'x' }, name: 'n' })).toEqual({ tenantId, slug: 'x', name: 'n' })
  })
})
