import { agentVersionStats, type AgentVersionStats as Stats } from '../domain/agent-version-stats.ts'
import { decodeAgentId } from './agent-config.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { Money } from './money.ts'
import { DateRange } from './usage-report.ts'

const AgentVersionStats = builder.objectRef<Stats>('AgentVersionStats').implement({
  description: "What one version of an agent's configuration did in a span of time.",
  authScopes: { member: true },
  fields: (t) => ({
    version: t.exposeInt('version', { description: 'The version.' }),
    runs: t.exposeInt('runs', {
      description: 'Runs that were asked for. Those of conversations that were deleted since are not counted.',
    }),
    endedRuns: t.exposeInt('endedRuns', { description: 'Those of them that have ended, in whichever way.' }),
    failedRuns: t.exposeInt('failedRuns', { description: 'Those of them that have failed.' }),
    errorRate: t.float({
      nullable: true,
      description: 'The share of the ended runs that failed: 0 to 1. Null when none has ended.',
      resolve: ({ endedRuns, failedRuns }) => (endedRuns === 0 ? null : failedRuns / endedRuns),
    }),
    calls: t.expose('calls', { type: 'BigInt', description: 'Model calls that ended, from the ledger.' }),
    inputTokens: t.expose('inputTokens', { type: 'BigInt', description: 'Tokens they sent to models, cached ones included.' }),
    outputTokens: t.expose('outputTokens', {
      type: 'BigInt',
      description: 'Tokens the models wrote, hidden reasoning included.',
    }),
    cost: t.field({
      type: Money,
      description: 'What the calls cost.',
      resolve: ({ costNanos: nanos, currency }) => ({ nanos, currency }),
    }),
  }),
})

builder.queryField('agentVersionStats', (t) =>
  t.field({
    type: [AgentVersionStats],
    description:
      "Errors and cost of each version of an agent's configuration, newest first, to compare a canary by. Versions that did nothing are left out. NOT_FOUND when there is no such agent. For members and admins.",
    authScopes: { member: true },
    args: {
      agentId: t.arg.id({ description: "Whose. Default: the tenant's default agent." }),
      range: t.arg({ type: DateRange, required: true, description: 'When the runs were asked for, and the calls ended.' }),
    },
    resolve: (_root, { agentId, range }, context) =>
      agentVersionStats(scopeOf(context), { agentId: decodeAgentId(agentId), range }),
  }),
)
