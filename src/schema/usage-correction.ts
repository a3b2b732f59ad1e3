import type { UsageRecord } from '../data/generated/client.ts'
import { correctUsage } from '../domain/usage-correction.ts'
import { builder } from './builder.ts'
import { decodeId, encodeId } from './global-id.ts'
import { Money } from './money.ts'
import { operatorMutation } from './mutation.ts'
import { UsageTotal } from './usage-report.ts'

const UsageCorrection = builder.objectRef<UsageRecord>('UsageCorrection').implement({
  description: 'A row of the ledger that corrects a model call: what it adds, negative for what it takes back. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    usageRecordId: t.id({
      description: 'The row, as exports of the ledger name it.',
      resolve: ({ id }) => encodeId('UsageRecord', id),
    }),
    number: t.exposeInt('correction', { description: 'How many corrections of the call there are with this one.' }),
    inputTokens: t.exposeInt('inputTokens', { description: 'Tokens sent to the model, cached ones included.' }),
    cachedInputTokens: t.exposeInt('cachedInputTokens', { description: 'Those that the model had cached.' }),
    outputTokens: t.exposeInt('outputTokens', { description: 'Tokens the model wrote, hidden reasoning included.' }),
    reasoningTokens: t.exposeInt('reasoningTokens', { description: 'Those that were hidden reasoning.' }),
    cost: t.field({
      type: Money,
      description: 'What they cost, at the price of the call.',
      resolve: ({ costNanos: nanos, currency }) => ({ nanos, currency }),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made: the month in which it counts.' }),
  }),
})

const right = 'Default: what the ledger has.'

operatorMutation('correctUsage', {
  description:
    'Makes a model call in the ledger come to what it should, by a row that holds the difference, of now, at the price of the call: reports of earlier months stay as they were. A call that is right already is left alone. For operators.',
  input: (t) => ({
    tenantId: t.id({ required: true, description: 'Which tenant.' }),
    usageRecordId: t.id({ required: true, description: 'The row of the call, as exports of the ledger name it.' }),
    inputTokens: t.int({ description: `The right number of tokens sent to the model, cached ones included. ${right}` }),
    cachedInputTokens: t.int({ description: `The right number of those that the model had cached. ${right}` }),
    outputTokens: t.int({ description: `The right number of tokens the model wrote, hidden reasoning included. ${right}` }),
    reasoningTokens: t.int({ description: `The right number of those that were hidden reasoning. ${right}` }),
    reason: t.string({ required: true, description: "Why. It is in the tenant's audit log, for its admins to read." }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input changes nothing more.',
    }),
  }),
  resolve: (operator, { tenantId, usageRecordId, ...input }) =>
    correctUsage(operator, {
      ...input,
      tenantId: decodeId('Tenant', tenantId),
      usageRecordId: decodeId('UsageRecord', usageRecordId),
    }),
  payload: (t) => ({
    correction: t.expose('correction', {
      type: UsageCorrection,
      nullable: true,
      description: 'The row that was entered. Null when the call was right already.',
    }),
    total: t.expose('total', { type: UsageTotal, description: 'What the call comes to with all its corrections.' }),
  }),
})
