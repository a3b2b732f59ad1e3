import { builder } from './builder.ts'

/** An amount in nano-units (10⁻⁹) of a currency, as the ledger keeps it. */
export type Amount = { nanos: bigint; currency: string }

/** Micro-units, rounded half up. The ledger holds no negative amounts. */
export function microsOf(amount: Amount): bigint {
  return (amount.nanos + 500n) / 1_000n
}

/** As in `$0.001234`: at least cents, at most micro-units. */
export function formatMoney(amount: Amount): string {
  const digits = microsOf(amount).toString().padStart(7, '0')
  const decimal = `${digits.slice(0, -6)}.${digits.slice(-6)}` as `${number}`
  const style = { style: 'currency', currency: amount.currency, minimumFractionDigits: 2, maximumFractionDigits: 6 } as const
  return new Intl.NumberFormat('en-US', style).format(decimal)
}

export const Money = builder.objectRef<Amount>('Money').implement({
  description: 'An amount of money.',
  authScopes: { endUser: true, operator: true },
  fields: (t) => ({
    micros: t.field({
      type: 'BigInt',
      description: 'Millionths of the currency unit, rounded half up. A JSON number up to 2^53 - 1, a string above.',
      resolve: microsOf,
    }),
    currency: t.exposeString('currency', { description: 'ISO 4217 code, as in USD.' }),
    formatted: t.string({ description: 'The amount as people write it, as in $0.001234.', resolve: formatMoney }),
  }),
})
