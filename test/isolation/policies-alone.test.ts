// @module-tag two-walls
import { describe } from 'vitest'
import { standing } from './two-worlds.ts'

describe('row-level security alone', { tags: ['policies-alone'] }, () => standing({ filter: false, rowLevelSecurity: true }))
