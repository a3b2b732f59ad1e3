// @module-tag two-walls
import { describe } from 'vitest'
import { standing } from './two-worlds.ts'

describe('the extension alone', { tags: ['filter-alone'] }, () => standing({ filter: true, rowLevelSecurity: false }))
