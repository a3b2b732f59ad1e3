// @module-tag two-walls
import { describe } from 'vitest'
import { standing } from './two-worlds.ts'

describe('both walls', { tags: ['both-walls'] }, () => standing({ filter: true, rowLevelSecurity: true }))
