import { Unauthenticated } from '../domain/errors.ts'
import {
  type UsageReport as Report,
  type UsageRow as Row,
  reportUsage,
  type UsageTotal as Total,
  type usageDimensions,
} from '../domain/usage-report.ts'
import { builder } from './builder.ts'
import { decodeId, encodeId } from './global-id.ts'
import { Money } from './money.ts'

const staffAndOperators = { member: true, operator: true } as const

export const DateRange = builder.inputType('DateRange', {
  description: 'A span of time, of a year at most.',
  fields: (t) => ({
    from: t.field({ type: 'DateTime', required: true, description: 'Its first moment.' }),
    to: t.field({ type: 'DateTime', required: true, description: 'The first moment that is not in it any more.' }),
  }),
})

const UsageDimension = builder.enumType('UsageDimension', {
  description: 'By what usage is told apart.',
  values: {
    HOUR: { description: 'By the hour, in the tenant’s time zone.' },
    DAY: { description: 'By the day, in the tenant’s time zone.' },
    MODEL: { description: 'By the model that was called.' },
    CONVERSATION: { description: 'By conversation. Not for operators.' },
    USER: { description: 'By end user. Not for operators.' },
    CONFIG_VERSION: { description: 'By agent, and the version of its configuration. Not for operators.' },
  } satisfies Record<(typeof usageDimensions)[number], { description: string }>,
})

type FieldsOf<Shape> = Parameters<Parameters<ReturnType<typeof builder.objectRef<Shape>>['implement']>[0]['fields'] & object>[0]

const figures = (t: FieldsOf<Total>) => ({
  calls: t.expose('calls', {
    type: 'BigInt',
    description: 'Model calls. One that was repeated counts as often as it was made.',
  }),
  inputTokens: t.expose('inputTokens', { type: 'BigInt', description: 'Tokens sent to models, cached ones included.' }),
  cachedInputTokens: t.expose('cachedInputTokens', { type: 'BigInt', description: 'Those that the models had cached.' }),
  outputTokens: t.expose('outputTokens', { type: 'BigInt', description: 'Tokens the models wrote, hidden reasoning included.' }),
  reasoningTokens: t.expose('reasoningTokens', { type: 'BigInt', description: 'Those that were hidden reasoning.' }),
  cost: t.field({
    type: Money,
    description: 'What they cost.',
    resolve: ({ costNanos: nanos, currency }) => ({ nanos, currency }),
  }),
  estimated: t.exposeBoolean('estimated', {
    description: 'True when a model did not report its usage, and it was counted here.',
  }),
})

export const UsageTotal = builder.objectRef<Total>('UsageTotal').implement({
  description: 'What model calls used and cost together.',
  authScopes: staffAndOperators,
  fields: (t) => figures(t),
})

const UsageRow = builder.objectRef<Row>('UsageRow').implement({
  description: 'What the model calls of one group used and cost. What they were not grouped by is null.',
  authScopes: staffAndOperators,
  fields: (t) => ({
    hour: t.expose('hour', { type: 'DateTime', nullable: true, description: 'When the hour began.' }),
    day: t.exposeString('day', { nullable: true, description: 'The day, as in 2026-11-29.' }),
    model: t.exposeString('model', { nullable: true, description: 'The model.' }),
    conversationId: t.id({
      nullable: true,
      description: 'The conversation. It may have been deleted since.',
      resolve: ({ conversationId }) => conversationId && encodeId('Conversation', conversationId),
    }),
    userId: t.exposeString('userId', { nullable: true, description: 'The end user. Null for staff, and for who was erased.' }),
    agentId: t.id({
      nullable: true,
      description: 'The agent whose configuration it is.',
      resolve: ({ agentId }) => agentId && encodeId('Agent', agentId),
    }),
    configVersion: t.exposeInt('configVersion', { nullable: true, description: 'The version of its configuration.' }),
    // Each row is a total too.
    ...figures(t as unknown as FieldsOf<Total>),
  }),
})

const UsageReport = builder.objectRef<Report>('UsageReport').implement({
  description: 'What a tenant used, from the ledger.',
  authScopes: staffAndOperators,
  fields: (t) => ({
    total: t.expose('total', { type: UsageTotal, description: 'All of it.' }),
    rows: t.expose('rows', {
      type: [UsageRow],
      description: 'By the dimensions that were asked for, in their order; none when none was.',
    }),
  }),
})

builder.queryField('usage', (t) =>
  t.field({
    type: UsageReport,
    description:
      "What your tenant's model calls used and cost; for operators, any tenant's. BAD_USER_INPUT when there would be more than 10,000 rows; NOT_FOUND when there is no such tenant. Not for end users.",
    authScopes: staffAndOperators,
    args: {
      range: t.arg({ type: DateRange, required: true, description: 'When the calls ended.' }),
      groupBy: t.arg({ type: [UsageDimension], description: 'By what to tell them apart. Default: by nothing.' }),
      tenantId: t.arg.id({ description: 'Whose. Default: your own. Operators have to say.' }),
    },
    resolve: (_root, { range, groupBy, tenantId }, { principal }) => {
      if (!principal) throw new Unauthenticated()
      return reportUsage(principal, {
        range,
        groupBy: groupBy ?? [],
        tenantId: tenantId == null ? null : decodeId('Tenant', tenantId),
      })
    },
  }),
)
