import type { AgentConfig } from '../data/generated/client.ts'
import type { Model, ModelMessage, ModelRequest, ToolDefinition } from './ports.ts'
import { messagesOf, type Turn } from './run-turn.ts'

/** A message as it was said, and its tokens. */
export type Question = { content: string; tokens: number }

/** What an earlier run of the conversation said, question first, and its tokens. */
export type Exchange = { messages: ModelMessage[]; tokens: number }

/** What every request of a run has in common. */
export type PromptFrame = { config: AgentConfig; tools: readonly ToolDefinition[]; question: Question }

/** A request that fits the model, and its input's tokens as counted here. */
export type Prompt = { request: ModelRequest; inputTokens: number }

/**
 * What each message takes besides its text: 4 tokens in OpenAI's formats (OpenAI Cookbook, "How to count tokens with
 * tiktoken"), and as many again for those of others.
 */
export const tokensPerMessage = 8

/** What the model is told of tools, and nothing else that is known of them. */
function definitionsOf(tools: readonly ToolDefinition[]): ToolDefinition[] {
  return tools.map(({ name, description, parameters }) => ({ name, description, parameters }))
}

type Prompted = Pick<AgentConfig, 'model' | 'systemPrompt'>

function systemPromptTokens(model: Model, config: Prompted): number {
  return model.countTokens(config.model, config.systemPrompt)
}

/** What is stored with a configuration, so that a statement can tell how large the prompt of a run will be. */
export function promptSizes(model: Model, config: Prompted): Pick<AgentConfig, 'systemPromptTokens' | 'contextWindow'> {
  return { systemPromptTokens: systemPromptTokens(model, config), contextWindow: model.contextWindow(config.model) }
}

/** Tokens that are in every request of the run, whatever the history. */
export function frameTokens(model: Model, { config, tools, question }: PromptFrame): number {
  const definitions = tools.length === 0 ? 0 : model.countTokens(config.model, JSON.stringify(definitionsOf(tools)))
  return systemPromptTokens(model, config) + definitions + question.tokens + 2 * tokensPerMessage
}

/** Tokens left for earlier exchanges and turns once the frame and the longest answer have theirs. Negative: it does not fit. */
export function roomFor(model: Model, config: AgentConfig, tokensInFrame: number): number {
  return model.contextWindow(config.model) - config.maxOutputTokens - tokensInFrame
}

/** What an exchange of these tokens and messages takes in a prompt. */
export function exchangeTokens(messages: readonly { tokens: number }[]): number {
  return messages.reduce((sum, { tokens }) => sum + tokens + tokensPerMessage, 0)
}

/** How many of the exchanges, newest first, fit into `room`. The first that does not ends it: a history has no holes. */
export function countFitting(newestFirst: readonly { tokens: number }[], room: number): number {
  let left = room
  const tooMuch = newestFirst.findIndex(({ tokens }) => {
    left -= tokens
    return left < 0
  })
  return tooMuch === -1 ? newestFirst.length : tooMuch
}

/** What a finished turn adds to the next request. */
export function turnTokens(model: Model, name: string, turn: Pick<Turn, 'text' | 'toolCalls' | 'results'>): number {
  const texts = [
    turn.text,
    ...turn.toolCalls.flatMap((call) => [call.name, call.arguments]),
    ...turn.results.map(({ content }) => content),
  ]
  const text = texts.reduce((sum, piece) => sum + model.countTokens(name, piece), 0)
  return text + tokensPerMessage * (1 + turn.toolCalls.length + turn.results.length)
}

/**
 * The request for the next turn: system prompt, as much of the history as fits (the oldest goes first), the question, the
 * turns so far. Null when not even the question and the turns fit.
 */
export function composePrompt(
  model: Model,
  frame: PromptFrame,
  tokensInFrame: number,
  history: readonly Exchange[],
  turns: readonly Turn[],
): Prompt | null {
  const { config, tools, question } = frame
  const own = turns.reduce((sum, { promptTokens }) => sum + promptTokens, tokensInFrame)
  const room = roomFor(model, config, own)
  if (room < 0) return null
  const newestFirst = history.toReversed()
  const kept = newestFirst.slice(0, countFitting(newestFirst, room)).reverse()
  const messages: ModelMessage[] = [
    ...(config.systemPrompt === '' ? [] : [{ role: 'system' as const, content: config.systemPrompt }]),
    ...kept.flatMap((exchange) => exchange.messages),
    { role: 'user', content: question.content },
    ...messagesOf(turns),
  ]
  return {
    request: {
      model: config.model,
      messages,
      temperature: config.temperature,
      maxOutputTokens: config.maxOutputTokens,
      tools: definitionsOf(tools),
    },
    inputTokens: kept.reduce((sum, { tokens }) => sum + tokens, own),
  }
}
