import type { AgentConfig } from '../data/generated/client.ts'
import { tenantIdOf } from './ids.ts'
import type { ToolDefinition } from './ports.ts'
import { type CallTerms, termsAt } from './pricing.ts'
import { composePrompt, frameTokens, type Prompt, type PromptFrame, roomFor } from './prompt.ts'
import { readHistory, type Said } from './run-history.ts'
import type { RunTask } from './run-loop.ts'
import type { Turn } from './run-turn.ts'

/** What whichever model answers is told. */
type Material = { tools: readonly ToolDefinition[]; said: Said }

/** What depends on which model answers: what its tokens cost, and how much of the conversation it is told. */
type Briefing = {
  terms: CallTerms
  /** The request for the next turn; null when it does not fit into the model's context. */
  compose: (turns: readonly Turn[]) => Prompt | null
}

/** The models that may answer a run: its agent's own and those to turn to, each asked only when those before it failed. */
export class LineUp {
  readonly #task: RunTask
  readonly #config: AgentConfig
  readonly #material: Material
  /** The model that the claim begins with, and what it costs; null when nobody said. */
  readonly #first: { model: string; terms: CallTerms | null }
  readonly #models: readonly string[]
  /** Of the models that were looked at so far. */
  readonly #briefings = new Map<string, Promise<Briefing | null>>()

  /** `terms` are those of the run's model. */
  constructor(task: RunTask, config: AgentConfig, material: Material, terms: CallTerms | null) {
    const { model, downgradedFrom } = task.run
    // The agent's own model is too dear for a run that was given a cheaper one.
    const listed = [...(downgradedFrom === null ? [task.run.config.model] : []), ...config.fallbackModels]
    this.#models = [...new Set(listed.includes(model) ? listed : [model, ...listed])]
    this.#first = { model, terms }
    this.#task = task
    this.#config = config
    this.#material = material
  }

  /**
   * All of them, in the order in which they are asked, and round again from the one that answered last: a run whose first model is down
   * does not wait for it in each of its turns.
   */
  get models(): string[] {
    const current = this.#models.indexOf(this.#task.run.model)
    return [...this.#models.slice(current), ...this.#models.slice(0, current)]
  }

  /** Null when the model has no price, or costs more than the run may spend. */
  briefing(model: string): Promise<Briefing | null> {
    const known = this.#briefings.get(model) ?? this.#look(model)
    this.#briefings.set(model, known)
    return known
  }

  async #look(model: string): Promise<Briefing | null> {
    const { run, db, ports } = this.#task
    const first = this.#first
    const terms = model === first.model ? first.terms : await termsAt(db, tenantIdOf(run.tenantId), model, ports.now())
    if (!terms || (run.downgradedFrom !== null && first.terms && isDearer(terms, first.terms))) return null
    const { tools, said } = this.#material
    const frame: PromptFrame = { config: { ...this.#config, model }, tools, question: said.question }
    const tokensInFrame = frameTokens(ports.model, frame)
    const history = await readHistory(db, said.earlier, roomFor(ports.model, frame.config, tokensInFrame))
    return { terms, compose: (turns) => composePrompt(ports.model, frame, tokensInFrame, history, turns) }
  }
}

/** Whether there are calls that cost more on these terms than on the others. */
function isDearer({ rates }: CallTerms, { rates: other }: CallTerms): boolean {
  return (
    rates.inputNanos > other.inputNanos ||
    rates.cachedInputNanos > other.cachedInputNanos ||
    rates.outputNanos > other.outputNanos
  )
}
