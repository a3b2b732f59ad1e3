import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { ConfigError, readConfig } from '../src/config.ts'

const key = () => randomBytes(32).toString('base64')

const production = {
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://app@db/bulkhead',
  DATABASE_PLATFORM_URL: 'postgres://platform@db/bulkhead',
  BULKHEAD_KEY_PEPPER: 'p'.repeat(32),
  BULKHEAD_MASTER_KEY: key(),
}

describe('the master key', () => {
  it.each(['DATABASE_URL', 'DATABASE_PLATFORM_URL', 'BULKHEAD_KEY_PEPPER', 'BULKHEAD_MASTER_KEY'])(
    'is, as all secrets, required in production: without %s it does not start',
    (name) => {
      expect(readConfig(production).masterKey).toBe(production.BULKHEAD_MASTER_KEY)
      expect(() => readConfig({ ...production, [name]: '' })).toThrow(`${name} is not set.`)
    },
  )

  it('may be left out in development', () => {
    const unset = { NODE_ENV: 'development', BULKHEAD_MASTER_KEY: '', BULKHEAD_OLD_MASTER_KEYS: '' }
    expect(readConfig(unset)).toMatchObject({ masterKey: null, oldMasterKeys: [] })
  })

  it('may have had others before it', () => {
    const [one, two] = [key(), key()]
    expect(readConfig({ ...production, BULKHEAD_OLD_MASTER_KEYS: `${one}, ${two}` }).oldMasterKeys).toEqual([one, two])
  })

  it.each([
    ['BULKHEAD_MASTER_KEY', 'hunter2'],
    ['BULKHEAD_MASTER_KEY', randomBytes(31).toString('base64')],
    ['BULKHEAD_MASTER_KEY', randomBytes(33).toString('base64')],
    ['BULKHEAD_MASTER_KEY', randomBytes(32).toString('hex')],
    ['BULKHEAD_OLD_MASTER_KEYS', `${key()},hunter2`],
  ])('is refused when %s is %s, which is not repeated', (name, value) => {
    const read = () => readConfig({ ...production, [name]: value })
    expect(read).toThrow(ConfigError)
    expect(read).toThrow(name)
    expect(read).not.toThrow(value)
  })
})
