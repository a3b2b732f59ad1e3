import { randomBytes } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Secrets that nobody has to set in development. */
export type LocalSecrets = { keyPepper: string; platformPassword: string }

/**
 * Reads the secrets of a data directory from `secrets.json`, mode 0600; makes them at random the first time.
 * Losing the file makes every API key invalid, so it is kept beside the data it belongs to.
 */
export async function localSecrets(dataDir: string): Promise<LocalSecrets> {
  const path = join(dataDir, 'secrets.json')
  await mkdir(dataDir, { recursive: true })
  const fresh: LocalSecrets = { keyPepper: randomSecret(), platformPassword: randomSecret() }
  try {
    // Two first starts at once: one creates the file, the other reads it.
    await writeFile(path, `${JSON.stringify(fresh, null, 2)}\n`, { mode: 0o600, flag: 'wx' })
    return fresh
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    return JSON.parse(await readFile(path, 'utf8'))
  }
}

function randomSecret(): string {
  return randomBytes(32).toString('base64url')
}
