import { dataModel } from '../../../src/data/generated/data-model.ts'
import { readableGlobals } from '../../../src/data/tenant-filter.ts'
import { platformModels } from '../rows.ts'
import type { Mutant } from './mutant.ts'

const lonely = [...readableGlobals].filter((model) => Object.keys(dataModel[model]?.relations ?? {}).length === 0)

/** What can be taken away without anybody seeing more, since something else in the same wall refuses all the same. */
const equivalents: { models: Iterable<string>; places: string[]; calls: string[]; because: string }[] = [
  {
    models: ['Tenant'],
    places: ['create', 'createManyAndReturn', 'upsert'],
    calls: ['restrictSelection', 'restrictWhere'],
    because: 'Whatever these answer, ownRow comes after them, and lets nobody create a tenant.',
  },
  {
    models: platformModels,
    places: ['restrictRead'],
    calls: ['UnscopedOperation'],
    because: 'A cursor on a table of the platform: wallOf comes after it, and lets nobody read that table.',
  },
  {
    models: lonely,
    places: ['restrictRead', 'restrictRelationFilters'],
    calls: ['refuseRelationOrder', 'restrictSelection', 'restrictRelationFilters'],
    because: 'It has no relations, so there is none to order by, to take along or to filter on.',
  },
]

/** Whether no test can see the mutant. Such a mutant is tried too and must survive: else the reason here is wrong. */
export function isEquivalent({ name }: Mutant): boolean {
  return equivalents.some(({ models, places, calls }) =>
    [...models].some((model) => new RegExp(`^${model}: (${places.join('|')}), line \\d+: (${calls.join('|')})\\(`).test(name)),
  )
}
