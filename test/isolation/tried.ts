import type { TaskMeta } from 'vitest'

/** What a test that tries many cases tells the table of `npm run test:isolation`. */
export type Tried = { cases: number; leaks: number }

declare module 'vitest' {
  interface TaskMeta {
    isolation?: Tried
  }
}

/** Notes how much the running test tried, for every rule that it is tagged with. Without it, a test is one case. */
export function tried(task: { meta: TaskMeta }, cases: Tried): void {
  task.meta.isolation = cases
}
