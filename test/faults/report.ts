import type { Reporter, TestModule } from 'vitest/node'
import type { Tried } from './tried.ts'

/** Prints what was tried of each fault and what came of it, also when that was not what is promised. */
export class FaultReport implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const rows = tests.map((test) => ({ name: test.name, state: test.result().state, tried: test.meta().faults ?? [] }))
    process.stdout.write(`${tableOf(rows.flatMap(({ tried }) => tried))}\n`)
    for (const { name, state } of rows) if (state !== 'passed') process.stdout.write(`  Not passed: ${name}\n`)
  }
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
