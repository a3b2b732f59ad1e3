import type { Reporter, TestCase, TestModule } from 'vitest/node'
import { type Rule, rules } from './rules.ts'

type Count = { cases: number; leaks: number; skipped: number }

/** The suites of test/isolation/two-walls.test.ts that say which walls stand. */
const modes = ['both walls', 'the extension alone', 'row-level security alone']

/**
 * Prints how many cases of each rule were tried, and how many leaked, and fails the run when a rule has no case. A test is one
 * case, unless it says how many it tried; a test that fails is a leak, however many cases it holds.
 */
export class IsolationReport implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const counts = rules.map((rule) => ({
      rule,
      count: countOf(
        tests.filter(({ tags }) => tags.includes(rule.tag)),
        rule.tag,
      ),
    }))
    const walls = modes.map((mode) => ({
      mode,
      count: countOf(
        tests.filter((test) => suitesOf(test).includes(mode)),
        'two-walls',
      ),
    }))
    process.stdout.write(`${tableOf(counts, walls)}\n`)

    const untested = counts.filter(({ rule, count }) => count.cases === 0 && rule.awaits === undefined)
    const leaks = [...counts, ...walls].reduce((sum, { count }) => sum + count.leaks, 0)
    for (const { rule } of untested) process.stdout.write(`No case was tried of rule ${rule.name}, "${rule.title}".\n`)
    if (untested.length > 0 || leaks > 0) process.exitCode = 1
  }
}

function countOf(tests: readonly TestCase[], tag: string): Count {
  const total = { cases: 0, leaks: 0, skipped: 0 }
  for (const test of tests) {
    const { state } = test.result()
    const { isolation } = test.meta()
    const told = isolation?.rule === tag ? isolation : { cases: 1, leaks: 0 }
    if (state === 'passed' || state === 'failed') total.cases += told.cases
    if (state === 'skipped') total.skipped += 1
    total.leaks += state === 'failed' ? Math.max(told.leaks, 1) : told.leaks
  }
  return total
}

/** The names of the suites that the test is in. */
function suitesOf(test: TestCase): string[] {
  const names = []
  for (let suite = test.parent; suite.type === 'suite'; suite = suite.parent) names.push(suite.name)
  return names
}

function tableOf(counts: { rule: Rule; count: Count }[], walls: { mode: string; count: Count }[]): string {
  const line = (name: string, title: string, cases: string, leaks: string, note: string) =>
    `  ${name.padEnd(8)} ${title.padEnd(58)} ${cases.padStart(9)} ${leaks.padStart(6)}  ${note}`.trimEnd()
  const row = (name: string, title: string, { cases, leaks, skipped }: Count, awaits?: string) => {
    const notes = [awaits && `awaits ${awaits}`, skipped > 0 && `${skipped} tests skipped`].filter(Boolean)
    return line(name, title, cases.toLocaleString('en'), String(leaks), notes.join(', '))
  }
  return [
    '',
    line('rule', '', 'cases', 'leaks', ''),
    ...counts.map(({ rule, count }) => row(rule.name, rule.title, count, rule.awaits)),
    '',
    line('walls', 'that stand', 'cases', 'leaks', ''),
    ...walls.map(({ mode, count }) => row('', mode, count)),
  ].join('\n')
}
