import type { Credit as CreditRow } from '../data/generated/client.ts'
import { builder } from './builder.ts'
import { Money } from './money.ts'

export const Credit = builder.objectRef<CreditRow>('Credit').implement({
  description: 'Money that a tenant was given.',
  authScopes: { admin: true, operator: true },
  fields: (t) => ({
    amount: t.field({
      type: Money,
      description: 'How much.',
      resolve: ({ amountNanos: nanos, currency }) => ({ nanos, currency }),
    }),
    reason: t.exposeString('reason', { description: 'What for.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was given.' }),
  }),
})
