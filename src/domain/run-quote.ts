import type { AgentConfig } from '../data/generated/client.ts'
import { agentNamed } from './agent.ts'
import { NotFound } from './errors.ts'
import { isUuid } from './ids.ts'
import { contentRules } from './message.ts'
import { type CallTerms, costNanos, defaultCurrency, larger, smaller, termsAt } from './pricing.ts'
import { composePrompt, frameTokens, roomFor } from './prompt.ts'
import { readEarlier, readHistory } from './run-history.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'
import { availableTools } from './toolset.ts'

export type QuoteRunQuery = {
  content: string
  /** Where it would be said. */
  conversationId?: string | null
  /** Who would answer, in a new conversation. Default: the tenant's default agent. */
  agentId?: string | null
}

/** What an answer would take, from the least to the most. Costs are in nano-units (10⁻⁹) of the currency, without a margin. */
export type RunQuote = {
  model: string
  /** The model that would answer in its place were the month's tokens nearly used up; else null. */
  downgradeModel: string | null
  leastTokens: number
  mostTokens: number
  leastCostNanos: bigint
  mostCostNanos: bigint
  currency: string
}

/**
 * What an answer to this message would take, before anything is spent. The least is one call whose input the model has cached and to which it
 * says nothing; the most is as many calls as the agent may make, each with the longest answer, and from the second on with as much
 * input as the model takes, since what tools answer is not known. Input is counted here, by the model's tokenizer. Throws a
 * ValidationProblem as `sendMessage` does, and NotFound for a conversation or an agent that is not there, or whose model has no price.
 */
export async function quoteRun(scope: Scope, query: QuoteRunQuery): Promise<RunQuote> {
  requireRole(scope, 'MEMBER')
  const content = cleanText('content', query.content, contentRules)
  const config = await configFor(scope, query)
  const { downgradeModel } = scope.tenant
  const models = [...new Set([config.model, downgradeModel ?? config.model])]
  const quotes = await Promise.all(models.map((model) => quoteModel(scope, query, { ...config, model }, content)))
  return {
    ...{ model: config.model, downgradeModel: models.length > 1 ? downgradeModel : null, currency: defaultCurrency },
    leastTokens: Math.min(...quotes.map((quote) => quote.leastTokens)),
    mostTokens: Math.max(...quotes.map((quote) => quote.mostTokens)),
    leastCostNanos: quotes.map((quote) => quote.leastCostNanos).reduce(smaller),
    mostCostNanos: quotes.map((quote) => quote.mostCostNanos).reduce(larger),
  }
}

type ModelQuote = Pick<RunQuote, 'leastTokens' | 'mostTokens' | 'leastCostNanos' | 'mostCostNanos'>

async function quoteModel(
  { tenant, db, ports, quotaSource }: Scope,
  { conversationId }: QuoteRunQuery,
  config: AgentConfig,
  content: string,
): Promise<ModelQuote> {
  const { model } = ports
  const now = ports.now()
  const [terms, quota, tools, earlier] = await Promise.all([
    termsAt(db, tenant.id, config.model, now),
    quotaSource.terms(now),
    config.enabledTools.length === 0 ? [] : availableTools(ports, db, tenant.id),
    conversationId == null ? [] : readEarlier(db, tenant.id, conversationId, config),
  ])
  if (!terms) throw new NotFound('price')
  const enabled = tools.filter(({ name }) => config.enabledTools.includes(name))
  const frame = { config, tools: enabled, question: { content, tokens: model.countTokens(config.model, content) } }
  const tokensInFrame = frameTokens(model, frame)
  const history = await readHistory(db, earlier, roomFor(model, config, tokensInFrame))
  // One that does not fit is not sent, and costs nothing.
  const first = composePrompt(model, frame, tokensInFrame, history, [])?.inputTokens ?? 0
  const output = first === 0 ? 0 : Math.min(config.maxOutputTokens, quota.limits.TOKENS_PER_MESSAGE)
  const later = first === 0 || enabled.length === 0 ? 0 : config.maxTurns - 1
  const laterInput = Math.max(first, model.contextWindow(config.model) - config.maxOutputTokens)
  const inputTokens = first + later * laterInput
  const outputTokens = output * (1 + later)
  return {
    ...{ leastTokens: first, mostTokens: inputTokens + outputTokens },
    leastCostNanos: BigInt(first) * smaller(terms.rates.inputNanos, terms.rates.cachedInputNanos),
    mostCostNanos: costNanos({ inputTokens, cachedInputTokens: 0, outputTokens }, dearInput(terms)),
  }
}

/** The rates, as if input cost what the dearer kind of it does. */
function dearInput({ rates }: CallTerms): CallTerms['rates'] {
  return { ...rates, inputNanos: larger(rates.inputNanos, rates.cachedInputNanos) }
}

async function configFor({ db }: Scope, { conversationId, agentId }: QuoteRunQuery): Promise<AgentConfig> {
  const conversation =
    conversationId != null && isUuid(conversationId) ? await db.conversation.findFirst({ where: { id: conversationId } }) : null
  if (conversationId != null && !conversation) throw new NotFound('conversation')
  const agent = await db.agent.findFirst({ where: { ...agentNamed(conversation?.agentId ?? agentId), archivedAt: null } })
  const config = agent && (await db.agentConfig.findFirst({ where: { agentId: agent.id, version: agent.activeVersion } }))
  if (!config) throw new NotFound('agent')
  return config
}
