import type { BenchDatabase } from './support/database.ts'
import type { Report } from './support/report.ts'

/** What every bench is given. */
export type BenchContext = {
  /** Length of one contender's turn in each round. */
  seconds: number
  rounds: number
  /** Says what is being done, on the terminal only. */
  progress(message: string): void
  /** The database, started when the first bench asks for it. */
  database(): Promise<BenchDatabase>
}

export type Bench = {
  /** What is measured, in one line of the help. */
  summary: string
  /** Left out when all are run: it has no contenders that take turns, and may need programs that a machine lacks. Default false. */
  byNameOnly?: true
  run(context: BenchContext): Promise<Report[]>
}
