import type { Price as PriceRow, TenantPrice as TenantPriceRow } from '../data/generated/client.ts'
import { grantCredit } from '../domain/credit.ts'
import { listPrices, listTenantPrices, setPrice, setTenantPrice } from '../domain/price-list.ts'
import { builder } from './builder.ts'
import { operatorOf } from './context.ts'
import { Credit } from './credit.ts'
import { decodeId } from './global-id.ts'
import { operatorMutation } from './mutation.ts'

const perToken = 'Nano-units of the currency per token: 1 USD per million tokens is 1,000.'

const Price = builder.objectRef<PriceRow>('Price').implement({
  description: 'A version of what a model costs. Of several the one that began last holds, until it ends. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    model: t.exposeString('model', {
      description: 'Which model; `*` for the ceiling, at which every model is charged that has no price.',
    }),
    version: t.exposeInt('version', { description: 'Counted from 1.' }),
    currency: t.exposeString('currency', { description: 'ISO 4217 code, as in USD.' }),
    inputNanos: t.expose('inputNanos', { type: 'BigInt', description: `What input costs. ${perToken}` }),
    cachedInputNanos: t.expose('cachedInputNanos', {
      type: 'BigInt',
      description: 'What input costs that the model had cached.',
    }),
    outputNanos: t.expose('outputNanos', { type: 'BigInt', description: 'What output costs, hidden reasoning included.' }),
    validFrom: t.expose('validFrom', { type: 'DateTime', description: 'When it begins.' }),
    validTo: t.expose('validTo', {
      type: 'DateTime',
      nullable: true,
      description: 'When it ends. Null for when another begins.',
    }),
    createdBy: t.exposeString('createdBy', { description: 'The operator who set it; Bulkhead for what came with the platform.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was set.' }),
  }),
})

const TenantPrice = builder.objectRef<TenantPriceRow>('TenantPrice').implement({
  description:
    "What was agreed with a tenant: its own price of a model, or the list's, and a margin. Of several versions the one that began last holds, until it ends. For operators.",
  authScopes: { operator: true },
  fields: (t) => ({
    model: t.exposeString('model', { description: 'Which model; `*` for every model that nothing else was agreed for.' }),
    version: t.exposeInt('version', { description: 'Counted from 1.' }),
    inputNanos: t.expose('inputNanos', {
      type: 'BigInt',
      nullable: true,
      description: `What input costs. Null for what the list says. ${perToken}`,
    }),
    cachedInputNanos: t.expose('cachedInputNanos', {
      type: 'BigInt',
      nullable: true,
      description: 'What input costs that the model had cached. Null for what the list says.',
    }),
    outputNanos: t.expose('outputNanos', {
      type: 'BigInt',
      nullable: true,
      description: 'What output costs. Null for what the list says.',
    }),
    marginBasisPoints: t.exposeInt('marginBasisPoints', {
      description: 'Hundredths of a percent on top of the cost; negative for a discount.',
    }),
    validFrom: t.expose('validFrom', { type: 'DateTime', description: 'When it begins.' }),
    validTo: t.expose('validTo', {
      type: 'DateTime',
      nullable: true,
      description: 'When it ends. Null for when another begins.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was agreed.' }),
  }),
})

builder.queryFields((t) => ({
  prices: t.field({
    type: [Price],
    description: 'The price list: every version, by model, the oldest first. For operators.',
    authScopes: { operator: true },
    args: { model: t.arg.string({ description: 'Of which model alone. Default: of all.' }) },
    resolve: (_root, { model }, context) => listPrices(operatorOf(context), model),
  }),
  tenantPrices: t.field({
    type: [TenantPrice],
    description:
      'What was agreed with a tenant: every version, by model, the oldest first. NOT_FOUND when there is no such tenant. For operators.',
    authScopes: { operator: true },
    args: { tenantId: t.arg.id({ required: true, description: 'Which tenant.' }) },
    resolve: (_root, { tenantId }, context) => listTenantPrices(operatorOf(context), decodeId('Tenant', tenantId)),
  }),
}))

const begins = 'When it begins: now or later, and not before the version before it. Default: now.'
const ends = 'When it ends though no other begins. Default: never.'

operatorMutation('setPrice', {
  description:
    'Adds a version to the price list. What was charged stays as it was; a price that the model has already changes nothing. The model `*` is the ceiling: without it, models that have no price are refused. For operators.',
  input: (t) => ({
    model: t.string({ required: true, description: 'Which model, or `*`.' }),
    inputNanos: t.field({
      type: 'BigInt',
      required: true,
      description: `What input costs. ${perToken} 0 for a model that costs nothing.`,
    }),
    cachedInputNanos: t.field({
      type: 'BigInt',
      description: 'What input costs that the model had cached. Default: as other input.',
    }),
    outputNanos: t.field({ type: 'BigInt', required: true, description: 'What output costs.' }),
    validFrom: t.field({ type: 'DateTime', description: begins }),
    validTo: t.field({ type: 'DateTime', description: ends }),
  }),
  resolve: (operator, input) => setPrice(operator, { ...input, cachedInputNanos: input.cachedInputNanos ?? input.inputNanos }),
  payload: (t) => ({ price: t.expose('price', { type: Price, description: 'The version that holds from then on.' }) }),
})

const Rates = builder.inputType('TokenPriceInput', {
  description: 'What the tokens of a model cost.',
  fields: (t) => ({
    inputNanos: t.field({ type: 'BigInt', required: true, description: `Input. ${perToken}` }),
    cachedInputNanos: t.field({ type: 'BigInt', description: 'Input that the model had cached. Default: as other input.' }),
    outputNanos: t.field({ type: 'BigInt', required: true, description: 'Output.' }),
  }),
})

operatorMutation('setTenantPrice', {
  description:
    "Agrees with a tenant on its own price of a model, or on a margin on top of what the list says. What was charged stays as it was; what was agreed already changes nothing. To end an agreement, agree on the list's price without a margin. For operators.",
  input: (t) => ({
    tenantId: t.id({ required: true, description: 'Which tenant.' }),
    model: t.string({ required: true, description: 'Which model; `*` for a margin on all that nothing else was agreed for.' }),
    rates: t.field({ type: Rates, description: "Its own price. Default: the list's." }),
    marginBasisPoints: t.int({
      description: 'Hundredths of a percent on top of the cost: from -10,000, a discount of all of it, to 100,000. Default: 0.',
    }),
    reason: t.string({ required: true, description: "Why. It is in the tenant's audit log, for its admins to read." }),
    validFrom: t.field({ type: 'DateTime', description: begins }),
    validTo: t.field({ type: 'DateTime', description: ends }),
  }),
  resolve: (operator, { tenantId, rates, ...input }) =>
    setTenantPrice(operator, {
      ...input,
      tenantId: decodeId('Tenant', tenantId),
      rates: rates && { ...rates, cachedInputNanos: rates.cachedInputNanos ?? rates.inputNanos },
    }),
  payload: (t) => ({ tenantPrice: t.expose('tenantPrice', { type: TenantPrice, description: 'What holds from then on.' }) }),
})

operatorMutation('grantCredit', {
  description:
    "Gives a tenant money off this month's invoice. The same call again, by its key, gives nothing more. For operators.",
  input: (t) => ({
    tenantId: t.id({ required: true, description: 'Which tenant.' }),
    amountMicros: t.field({
      type: 'BigInt',
      required: true,
      description: 'How much, in millionths of the currency unit: from 1.',
    }),
    reason: t.string({ required: true, description: 'What for. It is on the invoice.' }),
    idempotencyKey: t.string({
      required: true,
      description: 'Of your choice: 1 to 255 visible ASCII characters, another for each credit.',
    }),
  }),
  resolve: (operator, { tenantId, ...input }) => grantCredit(operator, { ...input, tenantId: decodeId('Tenant', tenantId) }),
  payload: (t) => ({ credit: t.expose('credit', { type: Credit, description: 'What was given.' }) }),
})
