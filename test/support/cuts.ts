import { randomInt } from 'node:crypto'
import { wholeNumber } from './sample.ts'

/** How many answers are cut. Default 40. */
export const cuts = wholeNumber('CUTS') ?? 40

/** From which number it is chosen how. Default: another one each time. */
export const cutSeed = wholeNumber('SEED') ?? randomInt(1_000_000)
