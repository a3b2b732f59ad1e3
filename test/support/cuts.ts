import { randomInt } from 'node:crypto'

/** How many answers are cut. Default 40. */
export const cuts = Number(process.env['CUTS'] ?? 40)

/** From which number it is chosen how. Default: another one each time. */
export const cutSeed = Number(process.env['SEED'] ?? randomInt(1_000_000))
