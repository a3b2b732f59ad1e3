import { randomInt } from 'node:crypto'

/** How many mutants to try: `MUTANTS`, by default all. Which, when not all: `SEED`, by default another each time. */
export function sampleSettings(): { size: number; seed: number } {
  return {
    size: wholeNumber('MUTANTS') ?? Number.POSITIVE_INFINITY,
    seed: wholeNumber('SEED') ?? randomInt(1_000_000),
  }
}

/** The number in the environment variable of this name; undefined when it is not set. Throws for what is no whole number. */
export function wholeNumber(name: string): number | undefined {
  const text = process.env[name]
  if (text === undefined || text === '') return undefined
  if (!/^\d+$/.test(text)) throw new Error(`${name}=${text} is no whole number. Leave it unset for the default.`)
  return Number(text)
}

/** Whether nothing is sampled of the cases behind both walls: `EVERY_CASE`. */
export const everyCase = Boolean(process.env['EVERY_CASE'])
