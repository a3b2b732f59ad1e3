// @module-tag two-walls
import { describe, expect, it } from 'vitest'
import { dataModel } from '../../src/data/generated/data-model.ts'
import { restrict, UnscopedOperation } from '../../src/data/tenant-filter.ts'
import type { Case } from './cases.ts'
import { plainCases, relationCases, unknownModels } from './filter-cases.ts'
import { holesIn } from './holes.ts'
import { tableTags } from './tags.ts'

// The filter without Postgres, where some holes in it would show nothing, since keys carry the tenant.
const walls = [
  { who: 'staff', wall: { tenantId: 't', userId: null } },
  { who: 'an end user', wall: { tenantId: 't', userId: 'ann' } },
]

describe.each(walls)('for $who', { tags: ['filter-rules'] }, ({ wall }) => {
  /** What is wrong with what the filter makes of the case. */
  function faultIn({ model, operation, args }: Case): unknown {
    const mustRefuse = holesIn(model, operation, args, wall).some(({ kind }) => kind === 'forbidden')
    try {
      const holes = holesIn(model, operation, restrict(model, operation, args, wall), wall)
      return mustRefuse ? 'is not refused' : holes[0]
    } catch (error) {
      return mustRefuse && error instanceof UnscopedOperation ? undefined : error
    }
  }

  /** The first case with a fault says enough. */
  function expectNoFault(cases: Case[]): void {
    const faulty = cases.find((each) => faultIn(each) !== undefined)
    expect(faulty && { aim: faulty.aim, fault: faultIn(faulty) }).toBeUndefined()
  }

  it.each(unknownModels)('refuses the model %s', (model) => expectNoFault(plainCases(model)))

  for (const [model, { relations }] of Object.entries(dataModel)) {
    it(`${model} stays behind the wall`, { tags: tableTags([model]) }, () => expectNoFault(plainCases(model)))

    for (const [name, relation] of Object.entries(relations)) {
      const tags = tableTags([model, relation.model])
      it(`${model} and its ${name} stay behind the wall`, { tags }, () => expectNoFault(relationCases(model, name, relation)))
    }
  }
})
