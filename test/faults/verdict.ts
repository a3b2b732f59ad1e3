import { setTimeout as delay } from 'node:timers/promises'
import { decodeId } from '../../src/schema/global-id.ts'
import { selectRows } from '../support/tenant-rows.ts'
import type { Provider } from './provider.ts'
import type { Testimony, Witness } from './witness.ts'

/** What came of everything that was asked. */
export type Verdict = {
  runs: number
  /** Runs without an end, and calls that are not in the ledger. */
  lost: number
  /** Ends, messages and calls in the ledger that there should be fewer of. */
  doubled: number
  /** Streams whose text is not, byte for byte, the stored message and what the provider said. */
  gaps: number
  /** Of all streams, in milliseconds. */
  longestPause: number
  /** Of all requests, in milliseconds. */
  slowestAnswer: number
  /** What is wrong, in words. */
  findings: string[]
}

type UsageRow = { turn: number; call: number; attempt: number; output_tokens: number; estimated: boolean }
type Stored = { status: string; messages: string[]; usage: UsageRow[] }

/** Sweepers enter a call ten seconds after it was abandoned, in milliseconds. */
const longestSettling = 30_000

/** Compares what the clients were told with what is stored, and both with what the provider did. */
export async function judge({ testimonies, findings, slowestAnswer, stage }: Witness): Promise<Verdict> {
  const verdict: Verdict = {
    ...{ runs: testimonies.length, lost: 0, doubled: 0, gaps: 0, slowestAnswer, findings: [...findings] },
    longestPause: Math.max(0, ...testimonies.map(({ longestPause }) => longestPause)),
  }
  const note = (kind: 'lost' | 'doubled' | 'gaps', count: number, finding: string) => {
    if (count <= 0) return
    verdict[kind] += count
    verdict.findings.push(finding)
  }
  const unsettled = await settle(stage.database, testimonies)
  note('lost', unsettled, `${unsettled} calls were never entered into the ledger.`)
  const stored = await read(stage.database, testimonies)
  for (const testimony of testimonies) judgeRun(testimony, stored.get(idOf(testimony)), stage.provider, note)
  verdict.findings.push(...(await stage.fallen()))
  return verdict
}

type Note = (kind: 'lost' | 'doubled' | 'gaps', count: number, finding: string) => void

function judgeRun(testimony: Testimony, stored: Stored | undefined, provider: Provider, note: Note): void {
  const { question, asked, ends, text } = testimony
  const { ends: status = 'COMPLETED', turns = 1 } = asked
  if (!stored) {
    note('lost', 1, `${question}: there is no such run.`)
    return
  }
  if (ends.length === 0) note('lost', 1, `${question}: its stream had no end. It is ${stored.status}.`)
  note('doubled', ends.length - 1, `${question}: its stream ended with ${ends.join()}.`)
  if (stored.status !== status) note('lost', 1, `${question}: it is ${stored.status}, not ${status}.`)
  if (ends.some((end) => end.toUpperCase() !== `RUN${stored.status}`)) {
    note('gaps', 1, `${question}: it is ${stored.status}, and its stream ended with ${ends.join()}.`)
  }
  note('doubled', stored.messages.length - 1, `${question}: it has ${stored.messages.length} answers.`)

  const calls = provider.callsFor(question)
  if (status === 'COMPLETED') {
    const [message = ''] = stored.messages
    const pieces = message.split(/(?=Call \d+ answers )/)
    const said = pieces.every((piece) => calls.some((call) => call.text === piece)) && pieces.length === turns
    if (message !== text || !said) {
      note(
        'gaps',
        1,
        `${question}: ${JSON.stringify(text)} was shown, ${JSON.stringify(message)} is stored; ${calls.length} calls.`,
      )
    }
  }
  judgeLedger(question, stored, calls, note)
}

function judgeLedger(question: string, { usage, messages }: Stored, calls: Provider['calls'], note: Note): void {
  const charged = calls.filter(({ free }) => !free)
  const keys = new Set(usage.map(({ turn, call, attempt }) => `${turn}/${call}/${attempt}`))
  note('doubled', usage.length - keys.size, `${question}: a call is in the ledger twice.`)
  const reported = usage.filter(({ estimated }) => !estimated).map((row) => row.output_tokens)
  note('doubled', reported.length - new Set(reported).size, `${question}: what one call reported is in the ledger twice.`)
  const unheardOf = reported.filter((output) => !charged.some((call) => call.output === output))
  note('doubled', unheardOf.length, `${question}: the ledger has ${unheardOf.join()}, which no call reported.`)
  const answer = calls.findLast(({ text }) => messages[0]?.endsWith(text))
  if (answer && !reported.includes(answer.output)) note('lost', 1, `${question}: what its answer cost is not in the ledger.`)
  note(
    'lost',
    charged.length - usage.length,
    `${question}: ${charged.length} calls were made, and ${usage.length} are in the ledger.`,
  )
  // Of a call whose worker died between noting and making it nobody can tell; it counts as made, and as having said nothing.
  const silent = usage.filter(({ estimated, output_tokens: output }) => estimated && output === 0).length
  const surplus = usage.length - charged.length
  note('doubled', surplus - silent, `${question}: ${charged.length} calls were made, and ${usage.length} are in the ledger.`)
}

/** Waits until none of their calls is under way any more. Answers how many are all the same. */
async function settle(database: Witness['stage']['database'], testimonies: readonly Testimony[]): Promise<number> {
  if (testimonies.length === 0) return 0
  const deadline = performance.now() + longestSettling
  for (;;) {
    const [row] = await selectRows(
      database,
      `select count(*)::int as count from model_call_attempts where run_id in (${idsOf(testimonies)})`,
    )
    const count = Number(row?.['count'])
    if (count === 0 || performance.now() > deadline) return count
    await delay(250)
  }
}

async function read(database: Witness['stage']['database'], testimonies: readonly Testimony[]): Promise<Map<string, Stored>> {
  if (testimonies.length === 0) return new Map()
  const rows = await selectRows(
    database,
    `select id, status,
      (select coalesce(json_agg(content), '[]') from messages m where m.run_id = r.id and m.role = 'ASSISTANT') as messages,
      (select coalesce(json_agg(u), '[]') from usage_records u where u.run_id = r.id) as usage
     from runs r where id in (${idsOf(testimonies)})`,
  )
  return new Map(rows.map((row) => [String(row['id']), row as unknown as Stored]))
}

function idsOf(testimonies: readonly Testimony[]): string {
  return testimonies.map((testimony) => `'${idOf(testimony)}'`).join()
}

function idOf({ runId }: Testimony): string {
  return decodeId('Run', runId) ?? ''
}
