// @module-tag two-walls
import { describe, expect, it } from 'vitest'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { readableGlobals } from '../../src/data/tenant-filter.ts'
import { casesOf } from './cases.ts'
import { changes, platformModels, tenantParty } from './rows.ts'
import { groupedByOperation } from './touched.ts'
import { openPair, pairs, tried } from './two-worlds.ts'
import { openWorld } from './world.ts'

it('every model is covered, or is of the platform', () => {
  const covered = [...Object.keys(tenantParty('a').rows), ...platformModels, ...readableGlobals]
  expect(covered.toSorted()).toEqual(Object.keys(dataModel).toSorted())
  expect(Object.keys(changes).toSorted()).toEqual(Object.keys(tenantParty('a').rows).toSorted())
})

it('the rows carry their canary in every column that holds text', async () => {
  const party = tenantParty('Canary')
  const world = await openWorld({ filter: true, rowLevelSecurity: true }, [party])
  const texts = await world.textColumns()
  expect(texts).toContainEqual({ table: 'messages', column: 'content' })
  // A quarter that has to be summed is marked by a row that says nothing.
  const rows = [...world.beginning.values()].flat().filter(({ row }) => row['part'] !== 0)
  const bare = texts.filter(({ table, column }) =>
    rows.some((each) => each.table === table && !JSON.stringify(each.row[column]).includes(party.canary)),
  )
  // A zone that there is not would be an error wherever days are counted; events are words of the platform's, and a hash is of what is there.
  expect(bare).toEqual([
    { table: 'tenants', column: 'time_zone' },
    { table: 'tenants', column: 'past_time_zones' },
    { table: 'webhooks', column: 'events' },
    { table: 'tool_calls', column: 'arguments_hash' },
  ])
  await world.close()
})

describe('no wall at all', () => {
  describe.each(pairs)('between $between', ({ make }) => {
    const { own, other, shared = [] } = make()
    const pair = openPair({ filter: false, rowLevelSecurity: false }, own, other, shared)

    it.each(groupedByOperation(casesOf(own, other)))(
      '$operation of $model shows or changes what is the other’s',
      async ({ cases }) => {
        for (const attempt of cases) {
          if ((await pair.differences(attempt.writes, attempt.aim, tried(attempt))).length > 0) return
        }
        expect.fail('None of these cases could ever fail.')
      },
    )
  })
})
