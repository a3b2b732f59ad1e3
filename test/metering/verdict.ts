import type { Entry, StoredRun } from './books.ts'
import type { Usage } from './cut.ts'
import type { Trial } from './trial.ts'
import { type Call, writtenTokens } from './upstream.ts'

/** Tokens by the upstream's books, and by the ledger. */
type Both = { upstream: number; ledger: number }

/** A line of the table: what came of the cuts of one kind. */
export type Tally = {
  title: string
  cuts: number
  calls: number
  /** Input and output of calls that the upstream reported. */
  reported: Both
  /** Output of the others, whose input has to be exact. */
  estimated: Both
  lost: number
  doubled: number
}

export type Verdict = {
  tallies: Tally[]
  /** Calls whose worker was killed, or seemed to be dead: what it had read and not told is lost with it. */
  killed: Tally
  /** What is wrong, in words. */
  findings: string[]
}

function emptyTally(title: string): Tally {
  const none = { upstream: 0, ledger: 0 }
  return { title, cuts: 0, calls: 0, reported: { ...none }, estimated: { ...none }, lost: 0, doubled: 0 }
}

/** All of them in one. */
export function totalOf(tallies: readonly Tally[]): Tally {
  const both = (key: 'reported' | 'estimated') => ({
    upstream: tallies.reduce((sum, tally) => sum + tally[key].upstream, 0),
    ledger: tallies.reduce((sum, tally) => sum + tally[key].ledger, 0),
  })
  const sumOf = (key: 'cuts' | 'calls' | 'lost' | 'doubled') => tallies.reduce((sum, tally) => sum + tally[key], 0)
  return {
    ...{ title: 'all of these', reported: both('reported'), estimated: both('estimated') },
    ...{ cuts: sumOf('cuts'), calls: sumOf('calls'), lost: sumOf('lost'), doubled: sumOf('doubled') },
  }
}

/** Compares, call by call, what the ledger has with what the upstream wrote and reported. */
export function judge({ askers, stage }: Trial, stored: ReadonlyMap<string, StoredRun>): Verdict {
  const verdict: Verdict = { tallies: [], killed: emptyTally('calls whose worker was killed'), findings: [] }
  for (const asker of askers) {
    const { cut } = asker
    const { title, ends = ['COMPLETED'] } = cut.kind
    const tally = verdict.tallies.find((other) => other.title === title) ?? emptyTally(title)
    if (tally.cuts++ === 0) verdict.tallies.push(tally)
    const find = (finding: string) => verdict.findings.push(`Cut ${cut.number}, ${title}: ${finding}`)
    const run = stored.get(asker.storedId)
    if (!run) {
      tally.lost++
      find('there is no such run.')
      continue
    }
    // A run is claimed anew when its worker is dead, or seems to be.
    const isKilled = ({ attempt }: Entry) => attempt < run.epoch
    if (cut.kind.act === 'leave' ? asker.ends.length > 1 : asker.ends.length !== 1)
      find(`its stream ended with "${asker.ends.join()}".`)
    if (asker.ends.some((end) => end.toUpperCase() !== `RUN${run.status}`))
      find(`it is ${run.status}, and told ${asker.ends.join()}.`)
    const expected = run.entries.some(isKilled) ? ['COMPLETED', 'FAILED', 'CANCELLED'] : ends
    if (!expected.includes(run.status)) find(`it is ${run.status}.`)
    judgeRun(stage.provider.callsOf(cut), run.entries, isKilled, { tally, killed: verdict.killed, find })
  }
  return verdict
}

type Notes = { tally: Tally; killed: Tally; find: (finding: string) => void }

function judgeRun(calls: readonly Call[], entries: readonly Entry[], isKilled: (entry: Entry) => boolean, notes: Notes): void {
  const { tally, killed, find } = notes
  const { pairs, lost, doubled } = pair(calls, entries, isKilled)
  tally.lost += lost.length
  tally.doubled += doubled.length
  for (const { text, reported } of lost) {
    find(`a call is not in the ledger that reported ${JSON.stringify(reported)} and wrote ${JSON.stringify(text)}.`)
  }
  for (const entry of doubled) find(`no call is like the entry ${JSON.stringify(entry)}.`)
  for (const [call, entry] of pairs) {
    const wasKilled = entry.estimated && isKilled(entry)
    judgeEntry(call, entry, wasKilled, find)
    addTo(wasKilled ? killed : tally, call, entry)
  }
}

type Paired = { pairs: [Call, Entry][]; lost: Call[]; doubled: Entry[] }

/** Finds the entry of each call of a run: by what it reported, which no other did, and the others in their order. */
function pair(calls: readonly Call[], entries: readonly Entry[], isKilled: (entry: Entry) => boolean): Paired {
  const estimated = entries.filter((entry) => entry.estimated)
  const reported = entries.filter((entry) => !entry.estimated)
  const pairs: [Call, Entry][] = []
  const others: Call[] = []
  for (const call of calls) {
    const index = reported.findIndex((entry) => call.reported && isAsReported(entry, call.reported))
    const [entry] = index === -1 ? [] : reported.splice(index, 1)
    if (entry) pairs.push([call, entry])
    else if (!call.isFree) others.push(call)
  }
  // Of a call whose worker was killed before it was made, or while it was refused, nobody can tell; it counts as made.
  while (estimated.length > others.length) {
    const silent = estimated.findIndex((entry) => isKilled(entry) && entry.output_tokens === 0)
    if (silent === -1) break
    estimated.splice(silent, 1)
  }
  const lost = others.slice(estimated.length)
  const doubled = [...reported, ...estimated.slice(others.length)]
  for (const [index, entry] of estimated.slice(0, others.length).entries()) pairs.push([others[index] as Call, entry])
  return { pairs, lost, doubled }
}

/** What has to hold to the token. */
function judgeEntry(call: Call, entry: Entry, wasKilled: boolean, find: Notes['find']): void {
  if (BigInt(entry.cost_nanos) !== costOf(entry) || entry.currency !== entry.price.currency) {
    find(`its price is wrong: ${JSON.stringify(entry)}.`)
  }
  if (entry.model !== call.model) find(`${call.model} answered, and the ledger has ${entry.model}.`)
  if (!entry.estimated) return
  const { act, mishap } = call.cut.kind
  // A report may cross the request to cancel on its way.
  if (call.reported && !wasKilled && (act !== 'cancel' || mishap === 'waitsAfterUsage')) {
    find(`it reported ${JSON.stringify(call.reported)}, and was estimated.`)
  }
  if (entry.input_tokens !== call.inputTokens) {
    find(`its input is ${call.inputTokens} tokens, and the ledger has ${entry.input_tokens}.`)
  }
  if (entry.cached_input_tokens !== 0 || entry.reasoning_tokens !== 0) find('parts of it are estimated that cannot be.')
}

function addTo(tally: Tally, call: Call, entry: Entry): void {
  tally.calls++
  if (entry.estimated) {
    tally.estimated.upstream += writtenTokens(call)
    tally.estimated.ledger += entry.output_tokens
  } else {
    tally.reported.upstream += (call.reported?.input ?? 0) + (call.reported?.output ?? 0)
    tally.reported.ledger += entry.input_tokens + entry.output_tokens
  }
}

function isAsReported(entry: Entry, { input, cached, output, reasoning }: Usage): boolean {
  return (
    entry.input_tokens === input &&
    entry.cached_input_tokens === cached &&
    entry.output_tokens === output &&
    entry.reasoning_tokens === reasoning
  )
}

/** By the price list as it is, not as the ledger says it was. */
function costOf({ price, input_tokens: input, cached_input_tokens: cached, output_tokens: output }: Entry): bigint {
  return (
    BigInt(input - cached) * BigInt(price.input_nanos) +
    BigInt(cached) * BigInt(price.cached_input_nanos) +
    BigInt(output) * BigInt(price.output_nanos)
  )
}
