import { type Measured, median, percentile, ratioOf } from './rounds.ts'

/** What one bench found: a table, and what it says about the goals. */
export type Report = {
  title: string
  /** What was done, and with what settings: one sentence each. */
  setup: string[]
  table: Table
  verdicts: Verdict[]
}

type Table = { columns: string[]; rows: string[][] }

/** A goal beside what was measured. `row` is the goal's number in docs/performance.md. */
export type Verdict = { row: number; goal: string; measured: string; met: boolean }

/** Throughput, latency and CPU of each contender, and its ratio to the first. */
export function measurementTable(measured: readonly Measured[]): Table {
  const [reference] = measured
  return {
    columns: ['', 'ops/s', 'p50 ms', 'p99 ms', 'CPU µs/op', 'ratio'],
    rows: measured.map((one) => [
      one.name,
      Math.round(median(one.opsPerSecond)).toLocaleString('en'),
      percentile(one.latencies, 0.5).toFixed(2),
      percentile(one.latencies, 0.99).toFixed(2),
      median(one.cpuMicros).toFixed(0),
      reference ? `${ratioOf(one, reference).toFixed(2)}×` : '',
    ]),
  }
}

/** A goal that asks for at least `least` times the throughput of `reference`. */
export function atLeast(row: number, least: number, measured: Measured, reference: Measured): Verdict {
  const ratio = ratioOf(measured, reference)
  return {
    row,
    goal: `${measured.name} ≥ ${least}× ${reference.name}`,
    measured: `${ratio.toFixed(2)}×`,
    met: ratio >= least,
  }
}

export function printReport({ title, setup, table }: Report): void {
  console.log(`\n## ${title}\n\n${setup.join('\n')}\n\n${markdown(table)}`)
}

export function printVerdicts(verdicts: Verdict[]): void {
  const rows = verdicts
    .toSorted((one, other) => one.row - other.row)
    .map(({ row, goal, measured, met }) => [goal, String(row), measured, met ? 'yes' : 'NO'])
  console.log(`\n## Goals\n\n${markdown({ columns: ['goal', 'row', 'measured', 'met'], rows })}`)
}

/** Markdown, padded so that it reads in a terminal as well. */
function markdown({ columns, rows }: Table): string {
  const widths = columns.map((column, index) => Math.max(3, column.length, ...rows.map((row) => row[index]?.length ?? 0)))
  const line = (cells: string[]) =>
    `| ${cells.map((cell, index) => (index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0))).join(' | ')} |`
  const rule = widths.map((width, index) => (index === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`))
  return [line(columns), line(rule), ...rows.map(line)].join('\n')
}
