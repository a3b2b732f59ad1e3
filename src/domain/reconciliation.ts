import type { Tenant } from '../data/generated/client.ts'
import { tenantIdOf } from './ids.ts'
import { type DateRange, ledgerRows, ledgerSums } from './ledger-sums.ts'
import { undated } from './pricing.ts'
import { add, type ModelUsage, unused } from './provider-usage.ts'
import type { Platform } from './scope.ts'

/** A model by our ledgers and by the provider. `percent` is by how much of the provider's figure the one that differs most does. */
export type ModelDrift = { model: string; ours: ModelUsage; theirs: ModelUsage; percent: number }

/** What differs without a price is told and not judged: a request that used nothing is in no ledger. */
const judged = ['inputTokens', 'cachedInputTokens', 'outputTokens'] as const

/**
 * Compares what was used of each model, in the order of their names. A provider may name the dated snapshot that a model's name stood
 * for: where the snapshots of a model are not the same on both sides, they are compared together, under the name without the date.
 */
export function compareUsage(ours: ReadonlyMap<string, ModelUsage>, theirs: ReadonlyMap<string, ModelUsage>): ModelDrift[] {
  const families = Map.groupBy(new Set([...ours.keys(), ...theirs.keys()]), undated)
  const apart = [...families.values()].filter((names) => names.every((name) => ours.has(name) && theirs.has(name)))
  const named = new Set(apart.flat())
  const nameOf = (model: string) => (named.has(model) ? model : undated(model))
  const [we, they] = [under(ours, nameOf), under(theirs, nameOf)]
  return [...new Set([...we.keys(), ...they.keys()])].toSorted().map((model) => {
    const pair = { ours: we.get(model) ?? unused, theirs: they.get(model) ?? unused }
    return { model, ...pair, percent: Math.max(...judged.map((figure) => percentOf(pair.ours[figure], pair.theirs[figure]))) }
  })
}

/** By how many percent of theirs ours differs: infinitely many when they have nothing. */
export function percentOf(ours: bigint, theirs: bigint): number {
  const difference = Number(ours > theirs ? ours - theirs : theirs - ours)
  return difference === 0 ? 0 : (100 * difference) / Number(theirs)
}

function under(usage: ReadonlyMap<string, ModelUsage>, nameOf: (model: string) => string): Map<string, ModelUsage> {
  const sums = new Map<string, ModelUsage>()
  for (const [model, each] of usage) sums.set(nameOf(model), add(sums.get(nameOf(model)) ?? unused, each))
  return sums
}

/** Tenants that are read from the catalogue at a time, and whose ledgers are read at once. */
const page = 200
const atOnce = 4

/**
 * What all tenants together used of each model, those that were erased too, from their ledgers, each read in its own scope. A call counts
 * as it was corrected, whenever that was. Answers the number of tenants with it.
 */
export async function sumLedgers(
  { catalog, data }: Pick<Platform, 'catalog' | 'data'>,
  range: DateRange,
): Promise<{ tenants: number; models: Map<string, ModelUsage> }> {
  const models = new Map<string, ModelUsage>()
  let tenants = 0
  for await (const some of tenantsOf(catalog, atOnce)) {
    const sums = await Promise.all(some.map((tenant) => sumLedger(data, tenant, range)))
    for (const { model, ...usage } of sums.flat()) models.set(model, add(models.get(model) ?? unused, usage))
    tenants += some.length
  }
  return { tenants, models }
}

async function* tenantsOf(catalog: Platform['catalog'], size: number): AsyncGenerator<Tenant[], void, undefined> {
  let after: string | undefined
  for (;;) {
    const found = await catalog.tenants.list(after === undefined ? {} : { id: { gt: after } }, [{ id: 'asc' }], page)
    for (let start = 0; start < found.length; start += size) yield found.slice(start, start + size)
    after = found.at(-1)?.id
    if (found.length < page) return
  }
}

function sumLedger(
  data: Platform['data'],
  { id, status }: Tenant,
  range: DateRange,
): Promise<(ModelUsage & { model: string })[]> {
  const tenantId = tenantIdOf(id)
  // Of a tenant that was erased the rows are kept, and their sums are not.
  const ledger = status === 'ERASED' ? ledgerRows(tenantId, range) : ledgerSums(tenantId, range)
  return data.of({ tenantId, userId: null }).$queryRaw<(ModelUsage & { model: string })[]>`
    select model, sum(calls)::bigint as requests, sum(input_tokens)::bigint as "inputTokens",
      sum(cached_input_tokens)::bigint as "cachedInputTokens", sum(output_tokens)::bigint as "outputTokens"
    from (
      select l.model, l.calls, l.input_tokens, l.cached_input_tokens, l.output_tokens from (${ledger}) l where not l.is_correction
      union all
      select u.model, 0, c.input_tokens, c.cached_input_tokens, c.output_tokens
      from usage_records c join usage_records u on u.tenant_id = c.tenant_id and u.id = c.corrects_id
      where c.tenant_id = ${tenantId}::uuid and c.corrects_id is not null
        and u.created_at >= ${range.from}::timestamptz and u.created_at < ${range.to}::timestamptz) used
    group by model`
}
