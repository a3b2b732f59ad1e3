import { builder } from './builder.ts'

/** An amount in nano-units (10⁻⁹) of a currency, as the ledger keeps it. */
export type Amount = { nanos: bigint; currency: string }

/** Micro-units, rounded half away from zero. */
export function microsOf({ nanos }: Amount): bigint {
  return (nanos + (nanos < 0n ? -500n : 500n)) / 1_000n
}

/** As in `$0.001234`: at least cents, at most micro-units. */
export function formatMoney(amount: Amount): string {
  const style = { style: 'currency', currency: amount.currency, minimumFractionDigits: 2, maximumFractionDigits: 6 } as const
  return new Intl.NumberFormat('en-US', style).format(decimal(microsOf(amount), 6) as `${number}`)
}

/** The amount in units of its currency, exactly, as in `0.001234000`. */
export function decimalOf(nanos: bigint): string {
  return decimal(nanos, 9)
}

/** A number of the `places`-th decimal parts of one, as a decimal fraction. */
function decimal(parts: bigint, places: number): string {
  const digits = String(parts < 0n ? -parts : parts).padStart(places + 1, '0')
  return `${parts < 0n ? '-' : ''}${digits.slice(0, -places)}.${digits.slice(-places)}`
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
