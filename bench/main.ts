import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import manifest from '../package.json' with { type: 'json' }
import type { BenchContext } from './bench.ts'
import { benches } from './registry.ts'
import { type BenchDatabase, startDatabase } from './support/database.ts'
import { printReport, printVerdicts, type Verdict } from './support/report.ts'

const help = `npm run bench -- [names] [--rounds 15] [--seconds 0.5]

Runs the named benches, or all but claims, cluster, sweep and reports:
${Object.entries(benches)
  .map(([name, { summary }]) => `  ${name.padEnd(12)} ${summary}`)
  .join('\n')}

  --rounds   how often the contenders take turns; ratios are medians over the rounds
  --seconds  length of one turn`

type Order = { names: string[]; rounds: number; seconds: number }

/** What to run. Throws a TypeError that says why the order cannot be followed. */
function readOrder(): Order {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '15' },
      seconds: { type: 'string', default: '0.5' },
    },
  })
  const unknown = positionals.find((name) => !Object.hasOwn(benches, name))
  if (unknown !== undefined) throw new TypeError(`There is no bench "${unknown}".`)
  const rounds = Number(values.rounds)
  const seconds = Number(values.seconds)
  if (!Number.isInteger(rounds) || rounds < 1) throw new TypeError('--rounds must be a whole number, at least 1.')
  if (!(seconds > 0 && seconds <= 60)) throw new TypeError('--seconds must be a number above 0, at most 60.')
  return {
    names: positionals.length > 0 ? positionals : Object.keys(benches).filter((name) => !benches[name]?.byNameOnly),
    rounds,
    seconds,
  }
}

async function run({ names, rounds, seconds }: Order): Promise<void> {
  let database: Promise<BenchDatabase> | null = null
  const context: BenchContext = {
    rounds,
    seconds,
    progress: (message) => console.error(message),
    database: () => (database ??= startDatabase()),
  }
  const stop = async () => await (await database)?.stop()
  process.once('SIGINT', () => void stop().finally(() => process.exit(130)))

  const verdicts: Verdict[] = []
  try {
    for (const name of names) {
      for (const report of (await benches[name]?.run(context)) ?? []) {
        printReport(report)
        verdicts.push(...report.verdicts)
      }
    }
    if (verdicts.length > 0) printVerdicts(verdicts)
    console.log(`\n${await conditions(await database)}`)
    if (names.some((name) => !benches[name]?.byNameOnly)) console.log(turns)
  } finally {
    await stop()
  }
}

/** What the figures were measured on, and what they contain. */
async function conditions(database: BenchDatabase | null): Promise<string> {
  const { '@prisma/client': prisma, pg } = manifest.dependencies
  const [cpu] = cpus()
  return [
    `${new Date().toISOString().slice(0, 10)}, ${cpus().length} × ${cpu?.model.trim()}, Node ${process.versions.node}, Prisma ${prisma}, pg ${pg}`,
    ...(database ? [await database.describe()] : []),
  ].join('\n')
}

const turns = `Ratios are medians over rounds in which the contenders take turns. CPU is that of the measuring process: user and system,
all its threads; not that of Postgres, and not that of the proxy that makes the distance.`

let order: Order | null = null
try {
  order = readOrder()
} catch (error) {
  console.error(`${(error as TypeError).message}\n\n${help}`)
  process.exitCode = 2
}
if (order) await run(order)
