import { createContextCache } from '@pothos/core'
import type { QuotaReading } from '../domain/admission.ts'
import type { LimitReached } from '../domain/errors.ts'
import type { Context } from './context.ts'

/** What the mutations of one operation came to, as far as limits go, for the transport to tell in its own way. */
export class QuotaNotes {
  /** Mutations that were asked for. */
  fields = 0
  /** Those that a limit refused. */
  readonly refusals: LimitReached[] = []
  /** What the tenant had used after the last of them that says so; null when none does. */
  reading: QuotaReading | null = null

  refused(problem: LimitReached): void {
    this.refusals.push(problem)
    this.reading = problem.quota
  }
}

/** The notes of the operation at hand. */
export const quotaNotes: (context: Context) => QuotaNotes = createContextCache(() => new QuotaNotes())
