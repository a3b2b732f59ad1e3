import type { TokenUsage as Usage } from '../domain/run-event.ts'
import { builder } from './builder.ts'

export const TokenUsage = builder.objectRef<Usage>('TokenUsage').implement({
  description: 'Tokens of one or more model calls.',
  authScopes: { endUser: true },
  fields: (t) => ({
    inputTokens: t.exposeInt('inputTokens', { description: 'Tokens sent to the model, cached ones included.' }),
    cachedInputTokens: t.exposeInt('cachedInputTokens', { description: 'Those of the input tokens that the model had cached.' }),
    outputTokens: t.exposeInt('outputTokens', { description: 'Tokens the model wrote, hidden reasoning included.' }),
    reasoningTokens: t.exposeInt('reasoningTokens', { description: 'Those of the output tokens that were hidden reasoning.' }),
    totalTokens: t.int({ description: 'Input and output together.', resolve: (usage) => usage.inputTokens + usage.outputTokens }),
    estimated: t.exposeBoolean('estimated', {
      description: 'True when the model did not report the usage of at least one call and it was counted here.',
    }),
  }),
})
