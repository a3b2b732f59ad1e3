import { builder } from './builder.ts'

/** An amount in nano-units (10⁻⁹) of a currency, as the ledger keeps it. */
export type Amount = { nanos: bigint; currency: string }

/** Micro-units, rounded half away from zero. */
export function microsOf({ nanos }: Amount): bigint {
  return (nanos + (nanos < 0n ? -500n : 500n)) / 1_000n
}

/** As in `$0.001234`: at least cents, at most micro-units. */
export function formatMoney(amount: Amount): string {
  const micros = microsOf(amount)
  const digits = (micros < 0n ? -micros : micros).toString().padStart(7, '0')
  const decimal = `${micros < 0n ? '-' : ''}${digits.slice(0, -6)}.${digits.slice(-6)}` as `${number}`
  const style = { style: 'currency', currency: amount.currency, minimumFractionDigits: 2, maximumFractionDigits: 6 } as const
  return new Intl.NumberFormat('en-US', style).format(decimal)
}

export const Money = builder.objectRef<Amount>('Money').implement({
  description: 'An amount of money.',
  authScopes: { endUser: true, operator: true },
  fields: (t) => ({
    micros: t.field({
      type: 'BigInt',
      description: 'Millionths of the currency unit, rounded half away from zero. A JSON number up to 2^53 - 1, a string above.',
      resolve: microsOf,
    }),
    currency: t.exposeString('currency', { description: 'ISO 4217 code, as in USD.' }),
    formatted: t.string({ description: 'The amount as people write it, as in $0.001234.', resolve: formatMoney }),
  }),
})
