import type { Reporter, TestModule } from 'vitest/node'
import type { Tried } from './tried.ts'

/** Prints what was tried of each fault and what came of it, also when that was not what is promised. */
export class FaultReport implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const rows = tests.map((test) => ({ name: test.name, state: test.result().state, tried: test.meta().faults ?? [] }))
    const faults = Map.groupBy(
      rows.flatMap(({ tried }) => tried),
      ({ fault }) => fault,
    )
    process.stdout.write(`${tableOf([...faults.values()].map(together))}\n`)
    for (const { name, state } of rows) if (state !== 'passed') process.stdout.write(`  Not passed: ${name}\n`)
  }
}

/** What came of all of them, which are of one fault: how much of everything, and the longest that each thing took. */
function together(tried: readonly Tried[]): Tried {
  return tried.reduce((one, other) => ({
    fault: one.fault,
    times: one.times + other.times,
    runs: one.runs + other.runs,
    lost: one.lost + other.lost,
    doubled: one.doubled + other.doubled,
    gaps: one.gaps + other.gaps,
    longestPause: Math.max(one.longestPause, other.longestPause),
    slowestAnswer: Math.max(one.slowestAnswer, other.slowestAnswer),
    recovery: one.recovery === null || other.recovery === null ? null : Math.max(one.recovery, other.recovery),
  }))
}

function tableOf(rows: readonly Tried[]): string {
  const seconds = (millis: number | null) => (millis === null ? '–' : `${(millis / 1000).toFixed(1)} s`)
  const line = (fault: string, ...columns: string[]) =>
    `  ${fault.padEnd(66)}${columns.map((column, index) => column.padStart([6, 7, 6, 9, 6, 10, 10, 10][index] ?? 8)).join('')}`
  return [
    '',
    line('fault', 'times', 'runs', 'lost', 'doubled', 'gaps', 'longest', 'slowest', 'back'),
    line('', '', '', '', '', '', 'pause', 'answer', 'after'),
    ...rows.map(({ fault, times, runs, lost, doubled, gaps, longestPause, slowestAnswer, recovery }) =>
      line(
        fault,
        ...[times, runs, lost, doubled, gaps].map((count) => count.toLocaleString('en')),
        ...[longestPause, slowestAnswer, recovery].map(seconds),
      ),
    ),
    '',
  ].join('\n')
}
