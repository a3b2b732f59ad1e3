import { hkdfSync, randomBytes, randomUUID } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Secrets that nobody has to set in development. */
export type LocalSecrets = { keyPepper: string; platformPassword: string; masterKey: string }

/**
 * Reads the secrets of a data directory from `secrets.json`, mode 0600; makes them at random the first time.
 * Losing the file makes every API key invalid and every secret unreadable, so it is kept beside the data it belongs to.
 */
export async function localSecrets(dataDir: string): Promise<LocalSecrets> {
  const path = join(dataDir, 'secrets.json')
  await mkdir(dataDir, { recursive: true })
  const fresh = { keyPepper: randomSecret(), platformPassword: randomSecret(), masterKey: randomBytes(32).toString('base64') }
  try {
    // Two first starts at once: one creates the file, the other reads it.
    await writeFile(path, `${JSON.stringify(fresh, null, 2)}\n`, { mode: 0o600, flag: 'wx' })
    return fresh
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    const stored = JSON.parse(await readFile(path, 'utf8'))
    return stored.masterKey === undefined ? addMasterKey(path, stored) : stored
  }
}

/** Completes a file from before there was a master key. Of two starts at once, both derive the same one. */
async function addMasterKey(path: string, stored: Omit<LocalSecrets, 'masterKey'>): Promise<LocalSecrets> {
  const bytes = Buffer.from(hkdfSync('sha256', stored.keyPepper, '', 'bulkhead master key', 32))
  const complete = { ...stored, masterKey: bytes.toString('base64') }
  const draft = `${path}.${randomUUID()}`
  await writeFile(draft, `${JSON.stringify(complete, null, 2)}\n`, { mode: 0o600 })
  await rename(draft, path)
  return complete
}

function randomSecret(): string {
  return randomBytes(32).toString('base64url')
}
