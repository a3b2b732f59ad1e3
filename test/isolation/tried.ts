import type { TaskMeta } from 'vitest'

/** What a test tells the table of `npm run test:isolation` of itself: how much it tried for the rule of this tag. */
export type Tried = { rule: string; cases: number; leaks: number }

declare module 'vitest' {
  interface TaskMeta {
    isolation?: Tried
  }
}

/** Notes how many cases the running test tried. Without it, a test is one case. */
export function tried(task: { meta: TaskMeta }, cases: Tried): void {
  task.meta.isolation = cases
}
