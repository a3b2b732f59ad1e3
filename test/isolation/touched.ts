import { dataModel } from '../../src/data/generated/data-model.ts'
import type { Case } from './cases.ts'

/** Cases that are tried in one test, with all models whose rows they could show or change. */
export type CaseGroup = { model: string; operation: string; through: string; models: string[]; cases: Case[] }

/** The cases by model, operation and the relation that they lead through, so that a test touches few tables. */
export function groupedByRelation(cases: Case[]): CaseGroup[] {
  const groups = Map.groupBy(cases, (each) => `${each.model} ${each.operation}${throughOf(each)}`)
  return [...groups.values()].map((group) => groupOf(group, throughOf(group[0] as Case)))
}

/** The cases by model and operation. */
export function groupedByOperation(cases: Case[]): CaseGroup[] {
  const groups = Map.groupBy(cases, ({ model, operation }) => `${model} ${operation}`)
  return [...groups.values()].map((group) => groupOf(group, ''))
}

function groupOf(cases: Case[], through: string): CaseGroup {
  const [{ model, operation }] = cases as [Case]
  return { model, operation, through, models: [...new Set(cases.flatMap(modelsOf))], cases }
}

function throughOf({ model, args }: Case): string {
  const paths = [...relationsIn(model, args)]
  const first = [...new Set(paths.map(([name]) => name))]
  if (first.length === 0) return ''
  if (first.length > 1) return ' with its relations'
  return ` through ${first[0]}${paths.some((path) => path.length > 1) ? ' and beyond' : ''}`
}

function modelsOf({ model, args }: Case): string[] {
  return [model, ...[...relationsIn(model, args)].map((path) => modelAt(model, path))]
}

function modelAt(model: string, path: string[]): string {
  return path.reduce((at, name) => dataModel[at]?.relations[name]?.model ?? at, model)
}

/** The relations that arguments of an operation on the model name, each as the path of names that leads to it. */
function* relationsIn(model: string, value: unknown): Generator<string[]> {
  if (typeof value !== 'object' || value === null || value instanceof Date) return
  const relations = dataModel[model]?.relations ?? {}
  for (const [key, part] of Object.entries(value)) {
    const relation = relations[key]
    if (relation) {
      yield [key]
      for (const path of relationsIn(relation.model, part)) yield [key, ...path]
    } else if (key === '_count' && part === true) {
      for (const [name, { list }] of Object.entries(relations)) if (list) yield [name]
    } else yield* relationsIn(model, part)
  }
}
