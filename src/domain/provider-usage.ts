import { parse } from 'csv-parse/sync'
import { z } from 'zod'
import type { DateRange } from './ledger-sums.ts'

/** What a model was used for. */
export type ModelUsage = { requests: bigint; inputTokens: bigint; cachedInputTokens: bigint; outputTokens: bigint }

export const unused: ModelUsage = { requests: 0n, inputTokens: 0n, cachedInputTokens: 0n, outputTokens: 0n }

/** What a provider says was used of its models, by their names, and when. */
export type ProviderUsage = { period: DateRange; models: ReadonlyMap<string, ModelUsage> }

/** A file that cannot be understood. Its message says what is wrong, for whoever has the file. */
class UnreadableUsage extends Error {}

/** A span of time, and one model in it; null for a span in which nothing was used. */
type Entry = DateRange & { usage: (ModelUsage & { model: string }) | null }

/**
 * Reads a provider's account of what was used: a page, or several, of OpenAI's Usage API as JSON, the CSV that its dashboard exports, or
 * the plain CSV that docs/reconciliation.md describes. With `month`, only what is inside it counts, and it is the period; else the period
 * is that of the file. Throws UnreadableUsage.
 */
export function readProviderUsage(text: string, month: DateRange | null): ProviderUsage {
  const entries = /^\s*[{[]/.test(text) ? entriesInJson(text) : entriesInCsv(text)
  const counted = month ? entries.filter((entry) => isInside(entry, month)) : entries
  if (counted.length === 0)
    throw new UnreadableUsage(month ? 'The file has nothing of that month.' : 'The file has no usage in it.')
  const models = new Map<string, ModelUsage>()
  for (const { usage } of counted) if (usage) models.set(usage.model, add(models.get(usage.model) ?? unused, usage))
  const [begins, ends] = [counted.map(({ from }) => from.getTime()), counted.map(({ to }) => to.getTime())]
  const span = (list: number[], pick: (one: number, other: number) => number) => new Date(list.reduce((a, b) => pick(a, b)))
  return { period: month ?? { from: span(begins, Math.min), to: span(ends, Math.max) }, models }
}

export function add(one: ModelUsage, other: ModelUsage): ModelUsage {
  return {
    requests: one.requests + other.requests,
    inputTokens: one.inputTokens + other.inputTokens,
    cachedInputTokens: one.cachedInputTokens + other.cachedInputTokens,
    outputTokens: one.outputTokens + other.outputTokens,
  }
}

/** Throws UnreadableUsage for an entry that is partly inside: nobody knows how much of it. */
function isInside({ from, to }: DateRange, month: DateRange): boolean {
  if (to <= month.from || from >= month.to) return false
  if (from >= month.from && to <= month.to) return true
  throw new UnreadableUsage(`What was used from ${from.toISOString()} to ${to.toISOString()} is only partly in that month.`)
}

const count = z.number().int().nonnegative()
const seconds = z.number().int().nonnegative()
const result = z.object({
  model: z.string().nullish(),
  input_tokens: count,
  output_tokens: count,
  input_cached_tokens: count.nullish(),
  num_model_requests: count.nullish(),
})
const bucket = z.object({ start_time: seconds, end_time: seconds, results: z.array(result) })
const page = z.object({ data: z.array(bucket), has_more: z.boolean().nullish() })
const pages = z.union([
  page.transform((one) => [one]),
  z.array(page),
  z.array(bucket).transform((data) => [{ data, has_more: null }]),
])

function entriesInJson(text: string): Entry[] {
  const found = pages.safeParse(parsed(text))
  if (!found.success)
    throw new UnreadableUsage("The file is JSON, but not of OpenAI's Usage API: a page whose data are buckets with results.")
  if (found.data.at(-1)?.has_more)
    throw new UnreadableUsage(
      'The last page in the file says that there are more. Fetch them too, and put all of them in one array.',
    )
  return found.data.flatMap(({ data }) =>
    data.flatMap(({ start_time, end_time, results }): Entry[] => {
      const span = { from: new Date(start_time * 1_000), to: new Date(end_time * 1_000) }
      // What nobody used is a part of the period, too.
      return [{ ...span, usage: null }, ...results.map((each) => ({ ...span, usage: usageOf(each) }))]
    }),
  )
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new UnreadableUsage('The file looks like JSON and is none.', { cause })
  }
}

function usageOf({ model, ...figures }: z.infer<typeof result>): Entry['usage'] {
  if (!model) throw new UnreadableUsage('The file does not tell models apart. Ask for usage with group_by=model.')
  return {
    model,
    requests: BigInt(figures.num_model_requests ?? 0),
    inputTokens: BigInt(figures.input_tokens),
    cachedInputTokens: BigInt(figures.input_cached_tokens ?? 0),
    outputTokens: BigInt(figures.output_tokens),
  }
}

/** By what name each figure goes in a CSV, and what says when. */
type Columns = Record<keyof ModelUsage | 'from', string>

const openAiColumns: Columns = {
  from: 'start_time',
  requests: 'num_model_requests',
  inputTokens: 'input_tokens',
  cachedInputTokens: 'input_cached_tokens',
  outputTokens: 'output_tokens',
}

const plainColumns: Columns = {
  from: 'date',
  requests: 'requests',
  inputTokens: 'input_tokens',
  cachedInputTokens: 'cached_input_tokens',
  outputTokens: 'output_tokens',
}

function entriesInCsv(text: string): Entry[] {
  const rows = recordsOf(text)
  const names = Object.keys(rows[0] ?? {})
  const columns = [openAiColumns, plainColumns].find(({ from }) => names.includes(from))
  const missing = ['model', ...Object.values(columns ?? {})].filter((name) => !names.includes(name))
  if (!columns) throw new UnreadableUsage('The CSV has neither a column date nor, as those of OpenAI, start_time and end_time.')
  if (missing.length > 0) throw new UnreadableUsage(`The CSV lacks ${missing.join(', ')}.`)
  return rows.map((row, index) => {
    // The first line names the columns.
    const entry = columns === plainColumns ? dayOf(row) : spanOf(row)
    if (!entry) throw new UnreadableUsage(`Line ${index + 2} of the CSV does not say when, or not in the way of its header.`)
    const figures = [columns.requests, columns.inputTokens, columns.cachedInputTokens, columns.outputTokens].map(
      (name) => row[name] || '0',
    )
    if (figures.some((figure) => !/^\d+$/.test(figure)))
      throw new UnreadableUsage(`Line ${index + 2} of the CSV has a figure that is no whole number.`)
    const [requests = 0n, inputTokens = 0n, cachedInputTokens = 0n, outputTokens = 0n] = figures.map(BigInt)
    const { model } = row
    if (!model && figures.every((figure) => /^0+$/.test(figure))) return { ...entry, usage: null }
    if (!model) throw new UnreadableUsage(`Line ${index + 2} of the CSV names no model. Export usage by model.`)
    return { ...entry, usage: { model, requests, inputTokens, cachedInputTokens, outputTokens } }
  })
}

function recordsOf(text: string): Record<string, string>[] {
  try {
    return parse(text, { columns: true, bom: true, trim: true, skip_empty_lines: true })
  } catch (cause) {
    throw new UnreadableUsage('The file is neither JSON nor CSV.', { cause })
  }
}

const dayLength = 24 * 3_600_000

/** A day in UTC; null for none. */
function dayOf({ date = '' }: Record<string, string>): DateRange | null {
  if (!z.iso.date().safeParse(date).success) return null
  const from = new Date(date)
  return { from, to: new Date(from.getTime() + dayLength) }
}

/** From one Unix time to another; null for none. */
function spanOf({ start_time = '', end_time = '' }: Record<string, string>): DateRange | null {
  if (!/^\d+$/.test(start_time) || !/^\d+$/.test(end_time)) return null
  return { from: new Date(Number(start_time) * 1_000), to: new Date(Number(end_time) * 1_000) }
}
