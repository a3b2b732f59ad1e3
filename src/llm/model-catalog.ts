import { undated } from '../domain/pricing.ts'

/** What has to be known of a model before calling it. */
type ModelProfile = {
  /** Tokens that fit, input and output together. */
  contextWindow: number
  /** Thinks before it answers, and takes no temperature but its own. */
  reasoning: boolean
  /** The name under which the endpoint takes the bound on output tokens. */
  outputBound: 'max_completion_tokens' | 'max_tokens'
}

/**
 * Source: OpenAI's model pages (https://platform.openai.com/docs/models), as gpt-tokenizer's model metadata repeats them; a test
 * compares the two. GPT-5 takes 400,000 tokens of which at most 272,000 may be input: the smaller figure is used, since history
 * trimmed to the larger one would be refused.
 */
const contextWindows: ReadonlyMap<string, number> = new Map([
  ['gpt-4o', 128_000],
  ['gpt-4o-mini', 128_000],
  ['gpt-4.1', 1_047_576],
  ['gpt-4.1-mini', 1_047_576],
  ['gpt-4.1-nano', 1_047_576],
  ['gpt-5', 272_000],
  ['gpt-5-mini', 272_000],
  ['gpt-5-nano', 272_000],
  ['o3', 200_000],
  ['o4-mini', 200_000],
  // The demo upstream has no window of its own; this one is large enough for any demonstration.
  ['bulkhead-demo', 32_768],
])

/** The smallest window among models still in use: history trimmed to it fits whatever stands behind an unknown name. */
const unknownContextWindow = 8192

const reasoningModel = /^(o\d|gpt-5)(-mini|-nano)?$/
const openAiModel = /^(gpt-(?!oss)|chatgpt-|o\d)/

/** The profile of `model`. A dated snapshot (`gpt-4o-2024-11-20`) is its model; an unknown name gets cautious values. */
export function profileOf(model: string): ModelProfile {
  const family = undated(model)
  return {
    contextWindow: contextWindows.get(family) ?? unknownContextWindow,
    reasoning: reasoningModel.test(family),
    // OpenAI refuses `max_tokens` on its newer models; many compatible servers know nothing else.
    outputBound: openAiModel.test(family) ? 'max_completion_tokens' : 'max_tokens',
  }
}
