import { type PlanSimulation as Simulation, simulatePlan } from '../domain/plan-simulation.ts'
import { builder } from './builder.ts'
import { operatorOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { Money } from './money.ts'
import { LimitName } from './quota-limit.ts'
import { PlanName } from './tenant.ts'
import { DateRange } from './usage-report.ts'

const SimulatedRefusals = builder.objectRef<Simulation['refused'][number]>('SimulatedRefusals').implement({
  description: 'Messages that a limit would have refused. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    limit: t.expose('limit', { type: LimitName, description: 'Which limit: of several the one that refuses for the longest.' }),
    messages: t.exposeInt('messages', { description: 'How many.' }),
  }),
})

const PlanSimulation = builder.objectRef<Simulation>('PlanSimulation').implement({
  description: 'What would have become of the messages of a period under another plan. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    plan: t.expose('plan', { type: PlanName, description: 'The other plan.' }),
    messages: t.exposeInt('messages', { description: 'Messages of the period whose conversations are still there.' }),
    refused: t.expose('refused', { type: [SimulatedRefusals], description: 'Those that would have been refused.' }),
    cutShort: t.exposeInt('cutShort', { description: 'Answers that the budget would have ended before they did.' }),
    tokens: t.expose('tokens', { type: 'BigInt', description: 'Tokens of what would have been answered.' }),
    cost: t.field({
      type: Money,
      description: 'What those cost, without a margin.',
      resolve: ({ costNanos: nanos, currency }) => ({ nanos, currency }),
    }),
    actualTokens: t.expose('actualTokens', { type: 'BigInt', description: 'Tokens of what was answered.' }),
    actualCost: t.field({
      type: Money,
      description: 'What those cost.',
      resolve: ({ actualCostNanos: nanos, currency }) => ({ nanos, currency }),
    }),
  }),
})

builder.queryField('simulatePlan', (t) =>
  t.field({
    type: PlanSimulation,
    description:
      "Replays a tenant's messages of a period against the limits of another plan. BAD_USER_INPUT for more than 200,000 messages; NOT_FOUND when there is no such tenant. For operators.",
    authScopes: { operator: true },
    args: {
      tenantId: t.arg.id({ required: true, description: 'Whose messages.' }),
      plan: t.arg({ type: PlanName, required: true, description: 'Which plan.' }),
      range: t.arg({ type: DateRange, required: true, description: 'When they were sent.' }),
    },
    resolve: (_root, { tenantId, plan, range }, context) =>
      simulatePlan(operatorOf(context), { tenantId: decodeId('Tenant', tenantId), plan, range }),
  }),
)
