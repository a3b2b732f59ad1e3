import { Unauthenticated } from '../domain/errors.ts'
import { findInvoice, type Invoice as InvoiceData, type InvoiceLine as Line } from '../domain/invoice.ts'
import { builder } from './builder.ts'
import { Credit } from './credit.ts'
import { decodeId } from './global-id.ts'
import { Money } from './money.ts'

const adminsAndOperators = { admin: true, operator: true } as const

/** A line knows the currency of its invoice. */
type LineOf = Line & { currency: string }

const money = ({ currency }: { currency: string }, nanos: bigint) => ({ nanos, currency })

const InvoiceLine = builder.objectRef<LineOf>('InvoiceLine').implement({
  description: 'What one model cost under one price.',
  authScopes: adminsAndOperators,
  fields: (t) => ({
    model: t.exposeString('model', { description: 'The model.' }),
    isCorrection: t.exposeBoolean('isCorrection', {
      description: 'Whether it corrects earlier calls, of this month or one before: then its figures are differences.',
    }),
    calls: t.expose('calls', { type: 'BigInt', description: 'Model calls. A correction is none.' }),
    inputTokens: t.expose('inputTokens', { type: 'BigInt', description: 'Tokens sent to the model, without cached ones.' }),
    cachedInputTokens: t.expose('cachedInputTokens', { type: 'BigInt', description: 'Tokens sent that the model had cached.' }),
    outputTokens: t.expose('outputTokens', { type: 'BigInt', description: 'Tokens the model wrote.' }),
    inputNanos: t.field({
      type: 'BigInt',
      description: 'What an input token costs, in nano-units of the currency.',
      resolve: ({ rates }) => rates.inputNanos,
    }),
    cachedInputNanos: t.field({
      type: 'BigInt',
      description: 'What a cached one costs.',
      resolve: ({ rates }) => rates.cachedInputNanos,
    }),
    outputNanos: t.field({
      type: 'BigInt',
      description: 'What an output token costs.',
      resolve: ({ rates }) => rates.outputNanos,
    }),
    cost: t.field({ type: Money, description: 'Tokens times prices.', resolve: (line) => money(line, line.costNanos) }),
    marginBasisPoints: t.exposeInt('marginBasisPoints', { description: 'The margin on it, in hundredths of a percent.' }),
    margin: t.field({
      type: Money,
      description: 'The margin, rounded half away from zero to nano-units.',
      resolve: (line) => money(line, line.marginNanos),
    }),
    amount: t.field({
      type: Money,
      description: 'Cost and margin.',
      resolve: (line) => money(line, line.costNanos + line.marginNanos),
    }),
  }),
})

const Invoice = builder.objectRef<InvoiceData>('Invoice').implement({
  description: "What a tenant's model calls of a month come to. For its admins, and for operators.",
  authScopes: adminsAndOperators,
  fields: (t) => ({
    month: t.exposeString('month', { description: 'As in 2026-11.' }),
    timeZone: t.exposeString('timeZone', { description: "The tenant's time zone." }),
    from: t.field({ type: 'DateTime', description: 'When the month began.', resolve: ({ range }) => range.from }),
    to: t.field({ type: 'DateTime', description: 'When it ends.', resolve: ({ range }) => range.to }),
    isFinal: t.exposeBoolean('isFinal', { description: 'Whether the month is over: then nothing on it changes any more.' }),
    currency: t.exposeString('currency', { description: 'ISO 4217 code, as in USD.' }),
    lines: t.field({
      type: [InvoiceLine],
      description: 'By model and price.',
      resolve: ({ lines, currency }) => lines.map((line) => ({ ...line, currency })),
    }),
    credits: t.expose('credits', { type: [Credit], description: 'What was given in this month.' }),
    cost: t.field({
      type: Money,
      description: 'The lines without their margins.',
      resolve: (invoice) => money(invoice, invoice.costNanos),
    }),
    margin: t.field({ type: Money, description: 'Their margins.', resolve: (invoice) => money(invoice, invoice.marginNanos) }),
    credit: t.field({
      type: Money,
      description: 'The credits together.',
      resolve: (invoice) => money(invoice, invoice.creditNanos),
    }),
    total: t.field({
      type: Money,
      description: 'Cost and margin less the credits: negative when those are more.',
      resolve: (invoice) => money(invoice, invoice.totalNanos),
    }),
  }),
})

builder.queryField('invoice', (t) =>
  t.field({
    type: Invoice,
    description:
      "What your tenant's model calls of a month come to; for operators, any tenant's. BAD_USER_INPUT for what is no month, or has not begun; NOT_FOUND when there is no such tenant. For admins and operators.",
    authScopes: adminsAndOperators,
    args: {
      month: t.arg.string({ required: true, description: 'As in 2026-11, in the time zone of the tenant.' }),
      tenantId: t.arg.id({ description: 'Whose. Default: your own. Operators have to say.' }),
    },
    resolve: (_root, { month, tenantId }, { principal }) => {
      if (!principal) throw new Unauthenticated()
      return findInvoice(principal, month, tenantId == null ? null : decodeId('Tenant', tenantId))
    },
  }),
)
