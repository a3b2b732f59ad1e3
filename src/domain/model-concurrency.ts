/** How many calls upstream models take at a time: those that are named each its own number, all others `others` together, null for any. */
export type ModelConcurrency = { named: ReadonlyMap<string, number>; others: number | null }

/** The models that share one bound, under the name that an operator gave them, and the bound. */
export type SlotPoolName = { name: string; cap: number }

/** What bounds the model; null when nothing does. */
export function slotPoolOf({ named, others }: ModelConcurrency, model: string): SlotPoolName | null {
  const cap = named.get(model)
  if (cap !== undefined) return { name: model, cap }
  return others === null ? null : { name: '*', cap: others }
}

/** The models that something bounds; null for all. */
export function boundedModels({ named, others }: ModelConcurrency): readonly string[] | null {
  return others === null ? [...named.keys()] : null
}
