import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { dataModel } from '../../../src/data/generated/data-model.ts'
import { tableOf } from '../tags.ts'
import type { Mutant } from './mutant.ts'
import { inserted, type Site, sitesIn } from './source.ts'
import { type Trace, trace } from './trace.ts'

/** The file that is mutated, and never written to. */
export const filterPath = join(import.meta.dirname, '../../../src/data/tenant-filter.ts')

/**
 * The filter without one of the things that it does, for one model: each call that adds a wall, each refusal, each column that
 * the wall fixes. Read from its source, and, as to where which model passes, from trying all that arguments can hold.
 */
export async function filterMutants(): Promise<Mutant[]> {
  const source = await readFile(filterPath, 'utf8')
  const sites = sitesIn(source)
  const { reached, fixed } = await trace(filterPath, source, sites)
  const ofSites = sites.flatMap((site, index) => siteMutants(source, site, reached[index] ?? new Set(), fixed))
  return [...ofSites, ...columnMutants(source, fixed)]
}

function siteMutants(source: string, site: Site, models: Set<string | null>, fixed: Trace['fixed']): Mutant[] {
  if (models.size === 0)
    throw new Error(`Nothing that test/isolation/filter-cases.ts makes comes to ${site.name}: add a case that does, or drop it.`)
  // A name that no model has matters only where nothing else comes.
  const known = [...models].filter((model) => model === null || Object.hasOwn(dataModel, model))
  // Models that the filter refuses altogether have no filters, and those that all may read have no columns of their own.
  const meant = (known.length > 0 ? known : [...models]).filter((model) => {
    const columns = fixed.get(model ?? '')
    return site.kind === 'refusal dropped' || (columns !== undefined && (!site.columns || columns.size > 0))
  })
  return meant.map((model) => {
    const condition = model === null ? 'true' : `${site.model} === ${JSON.stringify(model)}`
    return mutant(site.kind, site.name, model, inserted(source, [site.skipped(condition)]))
  })
}

function columnMutants(source: string, fixed: Map<string, Set<string>>): Mutant[] {
  const renamed = source.replace('function wallOf(', 'function wholeWallOf(')
  return [...fixed].flatMap(([model, columns]) =>
    [...columns].map((column) => {
      const without = `const { [${JSON.stringify(column)}]: left, ...rest } = wholeWallOf(model, wall); return rest`
      const body = `if (model !== ${JSON.stringify(model)}) return wholeWallOf(model, wall); ${without}`
      return mutant(
        'column not fixed',
        column,
        model,
        `${renamed}\nfunction wallOf(model: string, wall: Wall): Args { ${body} }\n`,
      )
    }),
  )
}

function mutant(kind: string, what: string, model: string | null, filter: string): Mutant {
  // Without a column or a whole rule another's rows are reached, first of all; of the rest, some show only without Postgres.
  const leaks = kind === 'column not fixed' || kind === 'operation unfiltered'
  return {
    kind,
    name: model === null ? what : `${model}: ${what}`,
    table: tableOf.get(model ?? '') ?? null,
    change: { filter },
    witnesses: leaks ? ['filter-alone', 'filter-rules'] : ['filter-rules', 'filter-alone'],
  }
}
