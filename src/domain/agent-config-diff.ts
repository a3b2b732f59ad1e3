import { isDeepStrictEqual } from 'node:util'
import type { AgentConfig } from '../data/generated/client.ts'
import { agentIdOf } from './agent.ts'
import type { AgentConfigContent } from './agent-config-change.ts'
import { findVersion } from './agent-release.ts'
import { requireRole, type Scope } from './scope.ts'

export type AgentConfigDiffQuery = {
  /** Default: the default agent. */
  agentId?: string | null
  from: number
  to: number
}

/** A field that two versions do not agree on, and what each says. */
export type AgentConfigDifference = { field: keyof AgentConfigContent; from: unknown; to: unknown }

/** What a tenant decides about an agent, in the order in which it is told. */
const fields = Object.keys({
  systemPrompt: true,
  model: true,
  fallbackModels: true,
  temperature: true,
  maxOutputTokens: true,
  maxTurns: true,
  enabledTools: true,
  branding: true,
  historyPolicy: true,
  historyExchanges: true,
  handoffAgentIds: true,
  budgetBehaviour: true,
} satisfies Record<keyof AgentConfigContent, true>) as (keyof AgentConfigContent & keyof AgentConfig)[]

/** What changed from one version of an agent to another, drafts included. Throws NotFound when either is missing. For members. */
export async function diffAgentConfigs(scope: Scope, query: AgentConfigDiffQuery): Promise<AgentConfigDifference[]> {
  requireRole(scope, 'MEMBER')
  const agentId = await agentIdOf(scope, query.agentId)
  const [from, to] = await Promise.all([query.from, query.to].map((version) => findVersion(scope.db, agentId, version)))
  return fields.flatMap((field) => {
    const [before, after] = [from?.[field], to?.[field]]
    return isDeepStrictEqual(before, after) ? [] : [{ field, from: before, to: after }]
  })
}
