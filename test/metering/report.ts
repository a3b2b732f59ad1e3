import type { Reporter, TestModule } from 'vitest/node'
import { type Tally, totalOf, type Verdict } from './verdict.ts'

declare module 'vitest' {
  interface TaskMeta {
    metering?: Verdict
  }
}

/** Prints how the ledger and the upstream's books compare, by kind of cut, also when they are not what is promised. */
export class MeteringReport implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    for (const test of modules.flatMap((module) => [...module.children.allTests()])) {
      const verdict = test.meta().metering
      process.stdout.write(`\n  ${test.name}\n`)
      if (verdict) process.stdout.write(`${tableOf(verdict)}\n`)
      if (test.result().state !== 'passed') process.stdout.write('  Not passed.\n')
    }
  }
}

function tableOf({ tallies, killed }: Verdict): string {
  const sorted = tallies.toSorted((a, b) => a.title.localeCompare(b.title))
  return [
    '',
    line('', ['', '', 'reported tokens', '', 'estimated output', '', '', '', '']),
    line('cut', ['times', 'calls', 'upstream', 'ledger', 'upstream', 'ledger', 'off by', 'lost', 'doubled']),
    ...[...sorted, totalOf(sorted), { ...killed, cuts: null }].map(lineOf),
    '',
  ].join('\n')
}

function lineOf({
  title,
  cuts,
  calls,
  reported,
  estimated,
  lost,
  doubled,
}: Omit<Tally, 'cuts'> & { cuts: number | null }): string {
  const { upstream, ledger } = estimated
  const offBy = upstream === 0 ? '–' : `${((100 * (ledger - upstream)) / upstream).toFixed(2)} %`
  const figures = [cuts, calls, reported.upstream, reported.ledger, upstream, ledger, offBy, lost, doubled]
  return line(
    title,
    figures.map((figure) => (typeof figure === 'number' ? figure.toLocaleString('en') : (figure ?? ''))),
  )
}

function line(title: string, columns: readonly string[]): string {
  const widths = [6, 7, 17, 13, 18, 9, 10, 6, 9]
  return `  ${title.padEnd(56)}${columns.map((column, index) => column.padStart(widths[index] ?? 8)).join('')}`
}
