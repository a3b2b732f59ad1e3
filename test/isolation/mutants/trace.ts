import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { dataModel } from '../../../src/data/generated/data-model.ts'
import type { restrict as Restrict } from '../../../src/data/tenant-filter.ts'
import { plainCases, relationCases, unknownModels } from '../filter-cases.ts'
import { inserted, type Site } from './source.ts'

export type Trace = {
  /** For each site, the models with which it matters; null stands for a site that knows of no model. */
  reached: Set<string | null>[]
  /** The columns that the wall fixes on each model that the filter lets through. */
  fixed: Map<string, Set<string>>
}

type Visit = { site: number; model: string | null; left: boolean }
type TracedFilter = { restrict: typeof Restrict; visits: Visit[] }

const walls = [null, 'ann'].map((userId) => ({ tenantId: 't', userId }))

// What the traced filter notes: a visit is left when its call has returned; one that threw never is.
const recorder = `
export const visits: { site: number; model: string | null; left: boolean }[] = []
const entered = (site: number, model: string | null) => visits.push({ site, model, left: false })
const left = (entry: number, value: any) => ((visits[entry - 1] as { left: boolean }).left = true, value)
`

/**
 * Tries all that arguments can hold, and notes with which models each site comes into play. One that did its part before the
 * operation was refused elsewhere did not: without it, the operation is refused all the same.
 */
export async function trace(path: string, source: string, sites: Site[]): Promise<Trace> {
  const { restrict, visits } = await traced(path, source, sites)
  const reached = sites.map(() => new Set<string | null>())
  const fixed = new Map<string, Set<string>>()
  for (const { model, operation, args } of everyCase()) {
    for (const wall of walls) {
      const restricted = attempt(() => restrict(model, operation, args, wall))
      for (const visit of visits.splice(0)) if (restricted || !visit.left) reached[visit.site]?.add(visit.model)
      const [own] = (restricted?.['where'] as { AND?: object[] } | undefined)?.AND?.slice(-1) ?? []
      if (own) fixed.set(model, new Set([...(fixed.get(model) ?? []), ...Object.keys(own)]))
    }
  }
  return { reached, fixed }
}

function* everyCase() {
  for (const model of [...Object.keys(dataModel), ...unknownModels]) {
    yield* plainCases(model)
    for (const [name, relation] of Object.entries(dataModel[model]?.relations ?? {})) yield* relationCases(model, name, relation)
  }
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch {
    return undefined
  }
}

/** The filter as it is, but for the notes that it takes, from a file elsewhere. */
async function traced(path: string, source: string, sites: Site[]): Promise<TracedFilter> {
  const noted = inserted(
    source,
    sites.map((site, index) => site.noted(`entered(${index}, ${site.model})`)),
  )
  const absolute = noted.replaceAll(/from '(\.[^']+)'/g, (_, to) => `from '${pathToFileURL(join(dirname(path), to)).href}'`)
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-mutants-'))
  const file = join(directory, 'traced-filter.ts')
  try {
    await writeFile(file, `${absolute}${recorder}`)
    return await import(pathToFileURL(file).href)
  } finally {
    await rm(directory, { recursive: true })
  }
}
