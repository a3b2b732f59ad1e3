import { type AgentConfigDifference as Difference, diffAgentConfigs } from '../domain/agent-config-diff.ts'
import { decodeAgentId } from './agent-config.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { encodeId } from './global-id.ts'

/** Agents by the ids that clients know. */
function jsonOf(field: Difference['field'], value: unknown): string {
  return JSON.stringify(field === 'handoffAgentIds' ? (value as string[]).map((id) => encodeId('Agent', id)) : value)
}

const AgentConfigDifference = builder.objectRef<Difference>('AgentConfigDifference').implement({
  description: "A field that two versions of an agent's configuration do not agree on.",
  authScopes: { member: true },
  fields: (t) => ({
    field: t.exposeString('field', { description: 'Its name, as AgentConfig has it.' }),
    from: t.string({
      description: 'What the one version says, as JSON.',
      resolve: ({ field, from }) => jsonOf(field, from),
    }),
    to: t.string({ description: 'What the other version says, as JSON.', resolve: ({ field, to }) => jsonOf(field, to) }),
  }),
})

builder.queryField('agentConfigDiff', (t) =>
  t.field({
    type: [AgentConfigDifference],
    description:
      "What changed from one version of an agent's configuration to another, drafts included. NOT_FOUND when there is no such agent or version. For members and admins.",
    authScopes: { member: true },
    args: {
      agentId: t.arg.id({ description: "Whose. Default: the tenant's default agent." }),
      from: t.arg.int({ required: true, description: 'The one version.' }),
      to: t.arg.int({ required: true, description: 'The other version.' }),
    },
    resolve: (_root, { agentId, from, to }, context) =>
      diffAgentConfigs(scopeOf(context), { agentId: decodeAgentId(agentId), from, to }),
  }),
)
