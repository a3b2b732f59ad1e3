import type { Reporter, TestCase, TestModule } from 'vitest/node'
import { type Rule, rules } from './rules.ts'
import type { WallTag } from './tags.ts'

type Count = { cases: number; leaks: number; skipped: number }

/** Which walls stand in a test of test/isolation/two-worlds.ts. */
const walls: { tag: WallTag; title: string }[] = [
  { tag: 'both-walls', title: 'both' },
  { tag: 'filter-alone', title: 'the filter alone, row-level security switched off' },
  { tag: 'policies-alone', title: 'row-level security alone, the filter switched off' },
]

/**
 * Prints how many cases of each rule were tried, and how many leaked, and fails the run when a rule has no case. A test is one
 * case, unless it says how many it tried; a test that fails is a leak, however many cases it holds.
 */
export class IsolationReport implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const byRule = rules.map((rule) => ({ rule, count: countOf(tests, rule.tag) }))
    const byWalls = walls.map(({ tag, title }) => ({ title, count: countOf(tests, tag) }))
    process.stdout.write(`${tableOf(byRule, byWalls)}\n`)

    const untested = byRule.filter(({ count }) => count.cases === 0)
    for (const { rule } of untested) process.stdout.write(`  Nothing was tried of ${rule.name}, "${rule.title}".\n`)
    if (untested.length > 0 || [...byRule, ...byWalls].some(({ count }) => count.leaks > 0)) process.exitCode = 1
  }
}

function countOf(tests: readonly TestCase[], tag: string): Count {
  const total = { cases: 0, leaks: 0, skipped: 0 }
  for (const test of tests) {
    if (!test.tags.includes(tag)) continue
    const { state } = test.result()
    const { cases, leaks } = test.meta().isolation ?? { cases: 1, leaks: 0 }
    if (state === 'skipped') total.skipped += 1
    else total.cases += cases
    total.leaks += state === 'failed' ? Math.max(leaks, 1) : leaks
  }
  return total
}

function tableOf(byRule: { rule: Rule; count: Count }[], byWalls: { title: string; count: Count }[]): string {
  const line = (name: string, title: string, cases: string, leaks: string, note = '') =>
    `  ${name.padEnd(8)} ${title.padEnd(56)} ${cases.padStart(9)} ${leaks.padStart(6)}  ${note}`.trimEnd()
  const row = (name: string, title: string, { cases, leaks, skipped }: Count) =>
    line(name, title, cases.toLocaleString('en'), String(leaks), skipped > 0 ? `${skipped} tests skipped` : '')
  return [
    '',
    line('rule', '', 'cases', 'leaks'),
    ...byRule.map(({ rule, count }) => row(rule.name, rule.title, count)),
    '',
    line('walls', 'that stand', 'cases', 'leaks'),
    ...byWalls.map(({ title, count }) => row('', title, count)),
    '',
  ].join('\n')
}
