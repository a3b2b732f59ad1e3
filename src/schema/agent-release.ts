import { publishAgentConfig, rollbackAgentConfig } from '../domain/agent-release.ts'
import { AgentConfig, decodeAgentId } from './agent-config.ts'
import { decodeId } from './global-id.ts'
import { mutation } from './mutation.ts'

mutation('publishAgentConfig', {
  description:
    "Puts a version to use. A draft becomes immutable by it. With a percentage below 100 it becomes the agent's canary: new runs of so many of the conversations use it, and a conversation stays with it; without one it is the active version, and there is no canary any more. Conflict when the active version is to be its own canary. For admins.",
  authScopes: { admin: true },
  input: (t) => ({
    agentConfigId: t.id({ required: true, description: 'Which version: a draft, or one that was published before.' }),
    canaryPercent: t.int({ description: 'The share of conversations whose new runs use it: 1 to 100. Default: 100.' }),
  }),
  resolve: async (scope, { agentConfigId, canaryPercent }) => ({
    agentConfig: await publishAgentConfig(scope, {
      agentConfigId: decodeId('AgentConfig', agentConfigId),
      canaryPercent,
    }),
  }),
  payload: (t) => ({ agentConfig: t.expose('agentConfig', { type: AgentConfig, description: 'The published version.' }) }),
})

mutation('rollbackAgentConfig', {
  description:
    'Makes a version that was published before the active one again, and ends the canary. No version is made, and runs under way keep theirs. Conflict for a draft. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    agentId: t.id({ description: "Whose configuration. Default: the tenant's default agent." }),
    version: t.int({ required: true, description: 'The version to return to.' }),
  }),
  resolve: async (scope, { agentId, version }) => ({
    agentConfig: await rollbackAgentConfig(scope, { agentId: decodeAgentId(agentId), version }),
  }),
  payload: (t) => ({
    agentConfig: t.expose('agentConfig', { type: AgentConfig, description: 'The version that is active now.' }),
  }),
})
