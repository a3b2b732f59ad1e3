import type { QuotaLimit } from '../data/generated/enums.ts'
import { builder } from './builder.ts'

export const LimitName = builder.enumType('QuotaLimitName', {
  description: 'What is limited.',
  values: {
    MESSAGES_PER_MINUTE: { description: 'Messages that are accepted in any 60 seconds.' },
    MESSAGES_PER_DAY: { description: "Messages that are accepted in a day of the tenant's time zone." },
    TOKENS_PER_MESSAGE: {
      description: "Tokens of one message, as estimated when it is sent. Bounds each model call's output, too.",
    },
    CONCURRENT_SESSIONS: { description: 'Runs that are neither over nor waiting for a person or for budget.' },
    MONTHLY_TOKENS: { description: "Tokens of model calls, input and output, in a calendar month of the tenant's time zone." },
  } satisfies Record<QuotaLimit, { description: string }>,
})
