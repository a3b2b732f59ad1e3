import { Random } from './random.ts'

/** What is done to an answer by whoever waits for it, or to the processes that make it, as soon as it has come so far. */
type Act = 'close' | 'leave' | 'cancel' | 'killWorker' | 'killApi'

/** What the upstream does other than to say all and report it. */
type Mishap =
  | 'refuses'
  | 'givesWay'
  | 'breaksBefore'
  | 'breaksAmid'
  | 'breaksAtEnd'
  | 'breaksBeforeUsage'
  | 'breaksAfterUsage'
  | 'garbage'
  | 'breaksReporting'
  | 'waitsAfterUsage'
  | 'callsTool'
  | 'breaksTool'

export type Kind = {
  title: string
  /** How often it is chosen, by comparison. Those that are not chosen come at regular intervals. */
  weight: number
  act?: Act
  mishap?: Mishap
  /** Default: the whole, at the end. */
  reports?: 'whole' | 'parts' | 'running' | 'nothing'
  /** How the run may end, unless a worker was killed under it. Default: COMPLETED. */
  ends?: readonly string[]
}

const stopped = ['CANCELLED', 'COMPLETED']

/** Every way in which an answer is cut. */
const kinds: readonly Kind[] = [
  { title: 'client: closes its socket, and comes back', weight: 6, act: 'close' },
  { title: 'client: closes its socket for good', weight: 6, act: 'leave' },
  { title: 'client: cancels', weight: 14, act: 'cancel', ends: stopped },
  {
    title: 'client: cancels when all is reported but the end',
    weight: 3,
    act: 'cancel',
    mishap: 'waitsAfterUsage',
    ends: stopped,
  },
  { title: 'client: cancels an answer that reports nothing', weight: 6, act: 'cancel', reports: 'nothing', ends: stopped },
  { title: 'upstream: 429 or 500, then an answer', weight: 6, mishap: 'refuses' },
  { title: 'upstream: has not the model, and another answers', weight: 6, mishap: 'givesWay' },
  { title: 'upstream: breaks off before the first token', weight: 6, mishap: 'breaksBefore' },
  { title: 'upstream: breaks off at a chunk', weight: 10, mishap: 'breaksAmid', ends: ['FAILED'] },
  {
    title: 'upstream: breaks off at a chunk, each with usage so far',
    weight: 4,
    mishap: 'breaksReporting',
    reports: 'running',
    ends: ['FAILED'],
  },
  { title: 'upstream: breaks off after the last token', weight: 6, mishap: 'breaksAtEnd', ends: ['FAILED'] },
  { title: 'upstream: breaks off between its reason and its usage', weight: 6, mishap: 'breaksBeforeUsage' },
  { title: 'upstream: breaks off between its usage and [DONE]', weight: 6, mishap: 'breaksAfterUsage' },
  { title: 'upstream: reports no usage', weight: 8, reports: 'nothing' },
  { title: 'upstream: reports usage so far with each chunk', weight: 4, reports: 'running' },
  { title: 'upstream: reports cached and reasoning tokens', weight: 6, reports: 'parts' },
  { title: 'upstream: garbage at a chunk', weight: 6, mishap: 'garbage', ends: ['FAILED'] },
  { title: 'upstream: calls a tool, then answers', weight: 4, mishap: 'callsTool' },
  { title: 'upstream: breaks off in the call of a tool', weight: 4, mishap: 'breaksTool', ends: ['FAILED'] },
]

const workerKill: Kind = { title: 'worker: kill -9', weight: 0, act: 'killWorker' }
const silentWorkerKill: Kind = { ...workerKill, reports: 'nothing' }
const apiKill: Kind = { title: 'api: kill -9', weight: 0, act: 'killApi' }

/** Every so many cuts a process is killed: each time a worker, or every third time an API instance. */
const killEvery = 20

export type Cut = {
  number: number
  kind: Kind
  /** Which of the two tenants asks. */
  tenant: 0 | 1
  question: string
  /** Where in the answer it happens: from 0 for its beginning to 1 for its end. */
  at: number
  /** How often the upstream fails before it answers. */
  failures: number
  /** What is said in each call of the run that the cut is of, and what it is said to have used. */
  answer(call: number): Answer
}

export type Answer = { chunks: string[]; pauseMs: number; usage: Usage }

export type Usage = { input: number; cached: number; output: number; reasoning: number }

/** So many cuts, the same from the same seed. */
export function chooseCuts(count: number, seed: number): Cut[] {
  const random = new Random(seed)
  const hat = kinds.flatMap((kind) => Array<Kind>(kind.weight).fill(kind))
  return Array.from({ length: count }, (_, index) => {
    const number = index + 1
    const kill = number % (3 * killEvery) === 0 ? apiKill : random.pick([workerKill, silentWorkerKill])
    const kind = number % killEvery === 0 ? kill : random.pick(hat)
    return {
      ...{ number, kind, tenant: random.pick([0, 1] as const), at: random.next(), failures: random.between(1, 2) },
      question: `Cut ${number} of ${seed}: ${wordsOf(random, random.between(1, 40))}`,
      answer: (call) => answerOf(new Random(seed, number, call), kind),
    }
  })
}

function answerOf(random: Random, { reports }: Kind): Answer {
  const text = wordsOf(random, random.between(10, 110))
  const output = random.between(200, 30_000)
  const input = random.between(1, 30_000)
  const parts = reports === 'parts' && { cached: random.between(1, input), reasoning: random.between(1, output) }
  return {
    ...{ chunks: piecesOf(text, random), pauseMs: random.between(10, 50) },
    usage: { input, output, cached: 0, reasoning: 0, ...parts },
  }
}

/** Pieces of up to a dozen UTF-16 units, which begin and end anywhere: also within a word, and within a character. */
function piecesOf(text: string, random: Random): string[] {
  const pieces: string[] = []
  for (let from = 0; from < text.length; ) {
    const to = from + random.between(1, 12)
    pieces.push(text.slice(from, to))
    from = to
  }
  return pieces
}

const vocabulary = [
  ...['the', 'ship', 'anchors', 'quickly', 'unbelievable', 'metering', 'harbour', 'antidisestablishmentarianism', 'of', 'a'],
  ...['über', 'Schifffahrtsgesellschaft', 'naïveté', 'Ωmega', '灯台守', 'маяк', 'منارة', '등대', '🚢', '👩‍🚒', '🇳🇴'],
  ...['3.14159', '2026-11-29', 'x=y+1;', '"quoted"', 'line\nbreak', '```ts', 'https://example.com/?q=1', '—', '…', '\t'],
]

function wordsOf(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.pick(vocabulary)).join(' ')
}
