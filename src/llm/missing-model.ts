import { type Model, ModelError } from '../domain/ports.ts'
import { profileOf } from './model-catalog.ts'
import { countTokens } from './token-count.ts'

/** The model of a platform that has no endpoint: every call is refused, in words that say what is missing. */
export function createMissingModel(): Model {
  return {
    // biome-ignore lint/correctness/useYield: it never gets as far as an event
    async *stream() {
      throw new ModelError('MODEL_REFUSED', 'No model provider is configured on this platform.', { retryable: false })
    },
    contextWindow: (model) => profileOf(model).contextWindow,
    hidesReasoning: (model) => profileOf(model).reasoning,
    countTokens: (_model, text) => countTokens(text),
  }
}
