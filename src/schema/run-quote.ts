import { type RunQuote as Quote, quoteRun } from '../domain/run-quote.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { Money } from './money.ts'

const RunQuote = builder.objectRef<Quote>('RunQuote').implement({
  description: 'What an answer would take, from the least to the most.',
  authScopes: { member: true },
  fields: (t) => ({
    model: t.exposeString('model', { description: 'The model that would answer.' }),
    downgradeModel: t.exposeString('downgradeModel', {
      nullable: true,
      description: "The model that would answer in its place were the month's tokens nearly used up. Null when there is none.",
    }),
    leastTokens: t.exposeInt('leastTokens', { description: 'What is sent, and no answer at all.' }),
    mostTokens: t.exposeInt('mostTokens', {
      description: 'As many calls as the agent may make, each with the longest answer it may give.',
    }),
    least: t.field({
      type: Money,
      description: 'What the least costs, with all of it cached.',
      resolve: ({ leastCostNanos: nanos, currency }) => ({ nanos, currency }),
    }),
    most: t.field({
      type: Money,
      description: 'What the most costs, with nothing cached.',
      resolve: ({ mostCostNanos: nanos, currency }) => ({ nanos, currency }),
    }),
  }),
})

builder.queryField('quoteRun', (t) =>
  t.field({
    type: RunQuote,
    description:
      'What an answer to a message would take, before anything is spent. Input is counted here. NOT_FOUND when there is no such conversation or agent. Not for end users.',
    authScopes: { member: true },
    args: {
      content: t.arg.string({ required: true, description: 'The message: up to 100,000 bytes.' }),
      conversationId: t.arg.id({ description: 'Where it would be said. Default: in a new conversation.' }),
      agentId: t.arg.id({ description: "Who would answer, in a new conversation. Default: your tenant's default agent." }),
    },
    resolve: (_root, { content, conversationId, agentId }, context) =>
      quoteRun(scopeOf(context), {
        content,
        conversationId: conversationId == null ? null : decodeId('Conversation', conversationId),
        agentId: agentId == null ? null : decodeId('Agent', agentId),
      }),
  }),
)
