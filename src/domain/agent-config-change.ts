import type { BudgetBehaviour, HistoryPolicy } from '../data/generated/enums.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { type Branding, type BrandingInput, checkBranding } from './agent-branding.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { isUuid } from './ids.ts'
import { termsAt } from './pricing.ts'
import type { Scope } from './scope.ts'
import { cleanText } from './text.ts'
import { availableTools } from './toolset.ts'

/** What a tenant decides about an agent. */
export type AgentConfigContent = {
  systemPrompt: string
  model: string
  /** Models to turn to, in this order. At most 10. */
  fallbackModels: string[]
  /** 0 to 2. */
  temperature: number
  /** Bound on the tokens of one model call: 1 to 128,000. */
  maxOutputTokens: number
  /** Bound on the model calls of one run: 1 to 50. */
  maxTurns: number
  /** Names among the tools that are available to the tenant. */
  enabledTools: string[]
  /** How frontends present the agent. */
  branding: Branding
  /** How much of what was said before the model is told. */
  historyPolicy: HistoryPolicy
  /** Under LAST_EXCHANGES, how many questions with their answers: 1 to 100. */
  historyExchanges: number
  /** Agents in use that it may hand a conversation over to. At most 20. */
  handoffAgentIds: string[]
  /** What becomes of an answer whose budget ends before it does; null for what the tenant's settings say. */
  budgetBehaviour: BudgetBehaviour | null
}

/** What is to change; absent and null leave a field as it is, but null for the budget behaviour, which then is the tenant's. */
export type AgentConfigChange = {
  [Field in Exclude<keyof AgentConfigContent, 'branding'>]?: AgentConfigContent[Field] | null
} & {
  /** Takes the place of all of it. */
  branding?: BrandingInput | null
}

/** Exchanges that a model is told of, whatever the policy. */
export const mostExchanges = 100

export const modelName = /^[A-Za-z0-9][\w.:/@+-]{0,199}$/

/**
 * The fields of `change` that are set, each within its bounds; else throws a ValidationProblem that names the field. Tools
 * must be available to the tenant. Models must have a price. Agents to hand over to must be in use; one that is
 * not there is NotFound.
 */
export async function checkChange(
  scope: Scope,
  db: TenantTransaction,
  change: AgentConfigChange,
): Promise<Partial<AgentConfigContent>> {
  const { systemPrompt, model, fallbackModels, temperature, maxOutputTokens, maxTurns, enabledTools } = change
  const { branding, historyPolicy, historyExchanges, handoffAgentIds, budgetBehaviour } = change
  const set: Partial<AgentConfigContent> = {}
  if (systemPrompt != null) {
    set.systemPrompt = cleanText('systemPrompt', systemPrompt, { min: 0, max: 100_000, multiline: true })
  }
  if (model != null) set.model = await checkModel(scope, db, 'model', model)
  if (fallbackModels != null) {
    checkList('fallbackModels', fallbackModels, 10)
    for (const name of fallbackModels) await checkModel(scope, db, 'fallbackModels', name)
    set.fallbackModels = fallbackModels
  }
  if (temperature != null) set.temperature = checkRange('temperature', temperature, 0, 2)
  if (maxOutputTokens != null) set.maxOutputTokens = checkWhole('maxOutputTokens', maxOutputTokens, 1, 128_000)
  if (maxTurns != null) set.maxTurns = checkWhole('maxTurns', maxTurns, 1, 50)
  if (enabledTools != null) set.enabledTools = await checkTools(scope, db, enabledTools)
  if (branding != null) set.branding = checkBranding(branding)
  if (historyPolicy != null) set.historyPolicy = historyPolicy
  if (historyExchanges != null) set.historyExchanges = checkWhole('historyExchanges', historyExchanges, 1, mostExchanges)
  if (handoffAgentIds != null) set.handoffAgentIds = await checkHandoffs(db, handoffAgentIds)
  if (budgetBehaviour !== undefined) set.budgetBehaviour = budgetBehaviour
  return set
}

/** `model` when it is a name and has a price; else throws a ValidationProblem at `path`. */
export async function checkModel(scope: Scope, db: TenantTransaction, path: string, model: string): Promise<string> {
  if (!modelName.test(model)) {
    throw new ValidationProblem([path], 'A model name has at most 200 letters, digits and the signs . _ : / @ + -')
  }
  if (!(await termsAt(db, scope.tenant.id, model, scope.ports.now()))) {
    throw new ValidationProblem([path], 'There is no such model on this platform: it has no price.')
  }
  return model
}

async function checkTools(scope: Scope, db: TenantTransaction, names: string[]): Promise<string[]> {
  checkList('enabledTools', names, 128)
  const available = await availableTools(scope.ports, db, scope.tenant.id)
  if (!names.every((name) => available.some((tool) => tool.name === name))) {
    throw new ValidationProblem(['enabledTools'], 'Only available tools can be enabled.')
  }
  return names
}

async function checkHandoffs(db: TenantTransaction, ids: string[]): Promise<string[]> {
  checkList('handoffAgentIds', ids, 20)
  const agents = await db.agent.findMany({ where: { id: { in: ids.filter(isUuid) } }, select: { archivedAt: true } })
  if (agents.length < ids.length) throw new NotFound('agent')
  if (agents.some(({ archivedAt }) => archivedAt !== null)) {
    throw new ValidationProblem(['handoffAgentIds'], 'A conversation cannot be handed over to an archived agent.')
  }
  return ids
}

function checkList(path: string, names: string[], most: number): void {
  if (names.length > most) throw new ValidationProblem([path], `The list must have at most ${most} entries.`)
  if (new Set(names).size < names.length) throw new ValidationProblem([path], 'No entry may occur twice.')
}

function checkRange(path: string, value: number, least: number, most: number): number {
  if (!(value >= least && value <= most)) {
    throw new ValidationProblem([path], `The value must be from ${least} to ${most.toLocaleString('en')}.`)
  }
  return value
}

function checkWhole(path: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value)) throw new ValidationProblem([path], 'The value must be a whole number.')
  return checkRange(path, value, least, most)
}
