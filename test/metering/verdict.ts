import type { Asker } from './asker.ts'
import { attemptOf, type Entry, type StoredRun } from './books.ts'
import type { Usage } from './cut.ts'
import { type Call, type Upstream, writtenTokens } from './upstream.ts'

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
  /** Calls whose worker was killed: what it had read and not told is lost with it. */
  killed: Tally
  /** What is wrong, in words. */
  findings: string[]
}

export function emptyTally(title: string): Tally {
  const none = { upstream: 0, ledger: 0 }
  return { title, cuts: 0, calls: 0, reported: { ...none }, estimated: { ...none }, lost: 0, doubled: 0 }
}

export type Books = {
  askers: readonly Asker[]
  upstream: Upstream
  stored: ReadonlyMap<string, StoredRun>
  /** Calls that were not entered yet when their worker was killed, by `attemptOf`. */
  killedAttempts: ReadonlySet<string>
}

/** Compares, call by call, what the ledger has with what the upstream wrote and reported. */
export function judge({ askers, upstream, stored, killedAttempts }: Books): Verdict {
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
    const isKilled = (entry: Entry) => killedAttempts.has(attemptOf(asker.storedId, entry))
    if (cut.kind.act === 'leave' ? asker.ends.length > 1 : asker.ends.length !== 1)
      find(`its stream ended with "${asker.ends.join()}".`)
    if (asker.ends.some((end) => end.toUpperCase() !== `RUN${run.status}`))
      find(`it is ${run.status}, and told ${asker.ends.join()}.`)
    const expected = run.entries.some(isKilled) ? ['COMPLETED', 'FAILED', 'CANCELLED'] : ends
    if (!expected.includes(run.status)) find(`it is ${run.status}.`)
    judgeRun(upstream.callsOf(cut), run.entries, isKilled, { tally, killed: verdict.killed, find })
  }
  return verdict
}

type Notes = { tally: Tally; killed: Tally; find: (finding: string) => void }

function judgeRun(calls: readonly Call[], entries: readonly Entry[], isKilled: (entry: Entry) => boolean, notes: Notes): void {
  const { tally, killed, find } = notes
  const left = entries.filter((entry) => entry.estimated)
  const pairs: [Call, Entry][] = []
  const unpaired: Call[] = []
  const reported = entries.filter((entry) => !entry.estimated)
  for (const call of calls) {
    const entry = reported.find((other) => call.reported !== null && isAsReported(other, call.reported))
    if (entry) {
      reported.splice(reported.indexOf(entry), 1)
      pairs.push([call, entry])
    } else if (!call.isFree) {
      unpaired.push(call)
    }
  }
  // Of a call whose worker was killed before it was made, or while it was refused, nobody can tell; it counts as made.
  while (left.length > unpaired.length) {
    const silent = left.findIndex((entry) => isKilled(entry) && entry.output_tokens === 0)
    if (silent === -1) break
    left.splice(silent, 1)
  }
  for (const call of unpaired) {
    const entry = left.shift()
    if (entry) {
      pairs.push([call, entry])
      continue
    }
    tally.lost++
    find(
      `a call is not in the ledger, which wrote ${JSON.stringify(call.text.slice(0, 80))} and reported ${JSON.stringify(call.reported)}.`,
    )
  }
  for (const entry of [...reported, ...left]) {
    tally.doubled++
    find(`no call is like the entry ${JSON.stringify(entry)}.`)
  }
  for (const [call, entry] of pairs)
    judgeCall(call, entry, isKilled(entry) && entry.estimated ? { tally: killed, find } : { tally, find }, isKilled(entry))
}

function judgeCall(call: Call, entry: Entry, { tally, find }: Pick<Notes, 'tally' | 'find'>, wasKilled: boolean): void {
  tally.calls++
  if (BigInt(entry.cost_nanos) !== costOf(entry) || entry.currency !== entry.price.currency)
    find(`its price is wrong: ${JSON.stringify(entry)}.`)
  if (!entry.estimated) {
    tally.reported.upstream += (call.reported?.input ?? 0) + (call.reported?.output ?? 0)
    tally.reported.ledger += entry.input_tokens + entry.output_tokens
    return
  }
  if (call.reported && !wasKilled && (call.cut.kind.act !== 'cancel' || call.cut.kind.mishap === 'waitsAfterUsage'))
    find(`it reported ${JSON.stringify(call.reported)}, and was estimated.`)
  if (entry.input_tokens !== call.inputTokens)
    find(`its input is ${call.inputTokens} tokens, and the ledger has ${entry.input_tokens}.`)
  if (entry.cached_input_tokens !== 0 || entry.reasoning_tokens !== 0) find('parts of it are estimated that cannot be.')
  tally.estimated.upstream += writtenTokens(call)
  tally.estimated.ledger += entry.output_tokens
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
