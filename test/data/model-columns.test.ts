import { afterAll, beforeAll, expect, it } from 'vitest'
import { Prisma } from '../../src/data/generated/client.ts'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { columnsOf, takeModel } from '../../src/data/model-columns.ts'
import { tenantParty } from '../isolation/rows.ts'
import { delegates, openWorld, operate, type World } from '../isolation/world.ts'

const party = tenantParty('Acme')
let world: World

beforeAll(async () => {
  world = await openWorld({ filter: true, rowLevelSecurity: true }, [party])
})

afterAll(() => world.close())

it.each(Object.keys(party.rows))('%s: raw SQL answers what the client answers', async (model) => {
  const db = world.data.of(party.wall)
  const table = Prisma.raw(dataModel[model]?.table ?? '')
  const rows = await db.$queryRaw<Record<string, unknown>[]>`select ${columnsOf(model, 't', 'row.')} from ${table} t`
  const found = rows.map((row) => takeModel(model, row, 'row.'))
  expect(found.length).toBeGreaterThan(0)
  expect(found).toEqual(expect.arrayContaining((await operate(delegates(db), model, 'findMany', {})) as unknown[]))
})

it('knows no other models', () => {
  expect(() => columnsOf('Nothing', 't')).toThrow('There is no model Nothing.')
})
