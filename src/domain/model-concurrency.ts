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

/** Reads `gpt-4o=50,*=200`: names with whole numbers above 0, each once, where `*` is all other models. Null for anything else. */
export function parseModelConcurrency(text: string): ModelConcurrency | null {
  const named = new Map<string, number>()
  for (const item of text.split(',').map((part) => part.trim())) {
    const [, name = '', cap = ''] = /^(\S+)\s*=\s*([1-9]\d{0,5})$/.exec(item) ?? []
    if (name === '' || named.has(name)) return null
    named.set(name, Number(cap))
  }
  const others = named.get('*') ?? null
  named.delete('*')
  return { named, others }
}
