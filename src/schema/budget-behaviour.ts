import type { BudgetBehaviour as Behaviour } from '../data/generated/enums.ts'
import { builder } from './builder.ts'

export const BudgetBehaviour = builder.enumType('BudgetBehaviour', {
  description: "What becomes of an answer when the month's tokens end before it does.",
  values: {
    END: { description: 'It ends with what is written so far, and the finish reason BUDGET.' },
    PAUSE: { description: 'It waits as PAUSED_BUDGET, and goes on by resumeRun.' },
  } satisfies Record<Behaviour, { description: string }>,
})
