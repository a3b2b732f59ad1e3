import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { localSecrets } from '../src/local-secrets.ts'

let directory: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bulkhead-secrets-'))
})
afterEach(() => rm(directory, { recursive: true }))

const stored = async () => JSON.parse(await readFile(join(directory, 'secrets.json'), 'utf8'))

describe('the secrets of a data directory', () => {
  it('are made once, and read from then on', async () => {
    const secrets = await localSecrets(directory)
    expect(Buffer.from(secrets.masterKey, 'base64')).toHaveLength(32)
    expect(await localSecrets(directory)).toEqual(secrets)
    expect(await stored()).toEqual(secrets)
    expect((await stat(join(directory, 'secrets.json'))).mode & 0o777).toBe(0o600)
  })

  it('get a master key where there was none yet, the same for all who start at once, and keep the others', async () => {
    const old = { keyPepper: 'p'.repeat(43), platformPassword: 'w'.repeat(43) }
    await writeFile(join(directory, 'secrets.json'), JSON.stringify(old))
    const [secrets, ...others] = await Promise.all(Array.from({ length: 5 }, () => localSecrets(directory)))
    expect(secrets).toEqual({ ...old, masterKey: expect.stringMatching(/^[A-Za-z0-9+/]{43}=$/) })
    for (const other of others) expect(other).toEqual(secrets)
    expect(await localSecrets(directory)).toEqual(secrets)
    expect(await stored()).toEqual(secrets)
    expect(await readdir(directory)).toEqual(['secrets.json'])
    expect((await stat(join(directory, 'secrets.json'))).mode & 0o777).toBe(0o600)
  })
})
