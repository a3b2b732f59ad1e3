import type { TaskMeta } from 'vitest'
import type { Verdict } from './verdict.ts'

/** A line of the table that `npm run test:faults` prints. */
export type Tried = Omit<Verdict, 'findings'> & {
  fault: string
  times: number
  /** From the end of the fault, or the death of a process, until all is well again, in milliseconds. Null where nothing is promised. */
  recovery: number | null
}

declare module 'vitest' {
  interface TaskMeta {
    faults?: Tried[]
  }
}

/** Notes what the running test tried, and what came of it. */
export function tried(
  task: { meta: TaskMeta },
  fault: string,
  times: number,
  verdict: Verdict,
  recovery: number | null = null,
): void {
  const { findings: _findings, ...counts } = verdict
  task.meta.faults = [...(task.meta.faults ?? []), { fault, times, ...counts, recovery }]
}
