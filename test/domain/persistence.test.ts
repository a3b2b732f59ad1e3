import { describe, expect, it } from 'vitest'
import { persist } from '../../src/domain/persistence.ts'

describe('persist', () => {
  it('tries again while the database is away', async () => {
    let tries = 0
    const written = await persist(async () => {
      tries += 1
      if (tries < 3) throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
      return 'written'
    })
    expect([written, tries]).toEqual(['written', 3])
  })

  it('does not when the database refused', async () => {
    let tries = 0
    const refused = persist(async () => {
      tries += 1
      throw new Error('That is not allowed.')
    })
    await expect(refused).rejects.toThrow('That is not allowed.')
    expect(tries).toBe(1)
  })
})
