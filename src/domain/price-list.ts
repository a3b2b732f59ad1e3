import type { Price, TenantPrice } from '../data/generated/client.ts'
import { PriceRace } from '../data/price-register.ts'
import { modelName } from './agent-config-change.ts'
import { auditRow } from './audit.ts'
import type { OperatorScope } from './authenticate.ts'
import { Conflict, ValidationProblem } from './errors.ts'
import { newId } from './ids.ts'
import { defaultCurrency, everyModel, type TokenPrice } from './pricing.ts'
import { presentTenant } from './tenant.ts'
import { cleanText } from './text.ts'
import { latestTime } from './time.ts'

export type SetPriceInput = {
  /** `*` for the ceiling. */
  model: string
  validFrom?: Date | null
  validTo?: Date | null
} & TokenPrice

export type SetTenantPriceInput = {
  tenantId: string
  /** `*` for every model that nothing else was agreed for. */
  model: string
  /** All three, or none for those of the list. */
  rates?: TokenPrice | null
  marginBasisPoints?: number | null
  reason: string
  validFrom?: Date | null
  validTo?: Date | null
}

/** The highest rate, a dollar per token, and the highest margin, ten times the cost. Beyond them a number is a typing error. */
const highestRate = 1_000_000_000n
const highestMargin = 100_000

/** By how much a clock may be behind that says when a price begins, in milliseconds. */
const leeway = 60_000

/**
 * Adds a version to the price list, which holds from `validFrom` on, by default from now, until another begins or `validTo` comes.
 * What was charged stays as it was. A price that the model has already changes nothing. Throws a ValidationProblem for a negative or
 * absurd rate, a beginning in the past or before that of the version before it, and an end that does not follow the beginning.
 * For operators.
 */
export async function setPrice(scope: OperatorScope, input: SetPriceInput): Promise<{ price: Price }> {
  const { catalog, operator, ports } = scope
  const model = checkPricedModel(input.model)
  const rates = checkRates(input)
  const period = checkPeriod(input, ports.now())
  const last = await catalog.prices.last(model)
  if (last && isRepeated(last, { ...rates, ...period }, input)) return { price: last }
  checkSequence(last, period)
  const price = {
    ...{ id: newId(), model, version: (last?.version ?? 0) + 1, currency: last?.currency ?? defaultCurrency },
    ...{ ...rates, ...period, createdBy: operator.name, createdAt: new Date(ports.now()) },
  }
  await once(() => catalog.prices.add(price))
  // Workers bring it where it does not arrive now.
  await catalog.prices.distribute().catch(ports.report)
  return { price }
}

/**
 * Agrees with a tenant on its own price of a model, or on the list's, and on a margin on top of it, from `validFrom` on. An end to an
 * agreement is another one: that of the list's price and no margin. What was agreed already changes nothing. Throws NotFound, also for
 * a tenant that was erased, and a ValidationProblem as `setPrice` does. For operators.
 */
export async function setTenantPrice(scope: OperatorScope, input: SetTenantPriceInput): Promise<{ tenantPrice: TenantPrice }> {
  const { catalog, operator, ports } = scope
  const { id: tenantId } = await presentTenant(scope, input.tenantId)
  const model = checkPricedModel(input.model)
  const rates = input.rates ? checkRates(input.rates) : { inputNanos: null, cachedInputNanos: null, outputNanos: null }
  if (model === everyModel && input.rates)
    throw new ValidationProblem(['model'], 'A price is of one model. For all of them there can be a margin.')
  const marginBasisPoints = checkMargin(input.marginBasisPoints ?? 0)
  const period = checkPeriod(input, ports.now())
  const reason = cleanText('reason', input.reason, { max: 1_000 })
  const last = (await catalog.prices.agreedWith(tenantId)).findLast((price) => price.model === model) ?? null
  if (last && isRepeated(last, { ...rates, ...period, marginBasisPoints }, input)) return { tenantPrice: last }
  checkSequence(last, period)
  const tenantPrice = {
    ...{ id: newId(), tenantId, model, version: (last?.version ?? 0) + 1, createdAt: new Date(ports.now()) },
    ...{ ...rates, ...period, marginBasisPoints },
  }
  const nanos = (rate: bigint | null) => (rate === null ? null : Number(rate))
  const details = {
    ...{ model, marginBasisPoints, reason, inputNanos: nanos(rates.inputNanos) },
    ...{ cachedInputNanos: nanos(rates.cachedInputNanos), outputNanos: nanos(rates.outputNanos) },
    ...{ validFrom: period.validFrom.toISOString(), validTo: period.validTo?.toISOString() ?? null },
  }
  const entry = { action: 'setTenantPrice', subject: 'TenantPrice' as const, subjectId: tenantPrice.id, details }
  const audit = auditRow(tenantId, { kind: 'OPERATOR', ...operator }, entry, ports.now())
  await once(() => catalog.prices.agree(tenantPrice, audit))
  return { tenantPrice }
}

/**
 * All versions of a model's price, or of every model's, by model and then the oldest first. Throws a ValidationProblem for what is no
 * model's name. For operators.
 */
export async function listPrices({ catalog }: OperatorScope, model?: string | null): Promise<Price[]> {
  return catalog.prices.list(model == null ? undefined : checkPricedModel(model))
}

/** All that was agreed with a tenant, by model and then the oldest first. Throws NotFound. For operators. */
export async function listTenantPrices(scope: OperatorScope, tenantId: string): Promise<TenantPrice[]> {
  return scope.catalog.prices.agreedWith((await presentTenant(scope, tenantId)).id)
}

function checkPricedModel(model: string): string {
  if (model !== everyModel && !modelName.test(model))
    throw new ValidationProblem(['model'], 'A model name has at most 200 letters, digits and the signs . _ : / @ + -')
  return model
}

function checkRates({ inputNanos, cachedInputNanos, outputNanos }: TokenPrice): TokenPrice {
  const rates = { inputNanos, cachedInputNanos, outputNanos }
  for (const [path, rate] of Object.entries(rates)) {
    if (rate < 0n || rate > highestRate)
      throw new ValidationProblem(
        [path],
        `The price of a token must be from 0 to ${highestRate.toLocaleString('en')} nano-units.`,
      )
  }
  return rates
}

function checkMargin(margin: number): number {
  if (!Number.isInteger(margin) || margin < -10_000 || margin > highestMargin)
    throw new ValidationProblem(['marginBasisPoints'], 'The margin must be from -10,000, which is all, to 100,000 basis points.')
  return margin
}

type Period = { validFrom: Date; validTo: Date | null }

function checkPeriod({ validFrom, validTo = null }: Pick<SetPriceInput, 'validFrom' | 'validTo'>, now: number): Period {
  const from = validFrom ?? new Date(now)
  if (from.getTime() < now - leeway || from.getTime() > latestTime)
    throw new ValidationProblem(['validFrom'], 'A price begins now or later: what was charged stays as it was.')
  if (validTo !== null && !(validTo > from && validTo.getTime() <= latestTime))
    throw new ValidationProblem(['validTo'], 'A price must end after it begins.')
  return { validFrom: from, validTo }
}

function checkSequence(last: Pick<Price, 'validFrom'> | null, { validFrom }: Period): void {
  if (last && validFrom < last.validFrom) {
    const begins = last.validFrom.toISOString()
    throw new ValidationProblem(['validFrom'], `It would overlap with the price that begins at ${begins}. Begin then or later.`)
  }
}

/** Whether the version that began last says all of this already. One that names no beginning asks for what holds now. */
function isRepeated(
  last: Partial<TenantPrice> & Period,
  { validFrom, validTo, ...wanted }: Partial<TenantPrice> & Period,
  input: Pick<SetPriceInput, 'validFrom'>,
): boolean {
  const fields = Object.keys(wanted) as (keyof typeof wanted)[]
  if (last.validTo?.getTime() !== validTo?.getTime() || fields.some((field) => last[field] !== wanted[field])) return false
  return input.validFrom ? last.validFrom.getTime() === validFrom.getTime() : last.validFrom <= validFrom
}

async function once(add: () => Promise<void>): Promise<void> {
  try {
    await add()
  } catch (error) {
    if (error instanceof PriceRace)
      throw new Conflict('Somebody else has just set another price of this model. Look, and try again.')
    throw error
  }
}
