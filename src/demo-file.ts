import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { DemoAccounts } from './domain/seed.ts'

/** The demo accounts and where they are valid: what `demo.json` in the data directory holds, readable by its owner alone. */
export type DemoFile = DemoAccounts & { url: string }

export function demoFilePath(dataDir: string): string {
  return join(dataDir, 'demo.json')
}

/** Null when this data directory has no demo accounts. */
export async function readDemoFile(dataDir: string): Promise<DemoFile | null> {
  try {
    return JSON.parse(await readFile(demoFilePath(dataDir), 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

export async function writeDemoFile(dataDir: string, demo: DemoFile): Promise<void> {
  const path = demoFilePath(dataDir)
  const { url, operatorKey, tenants } = demo
  await writeFile(path, `${JSON.stringify({ url, operatorKey, tenants }, null, 2)}\n`, { mode: 0o600 })
  // The mode above counts only when the file is new.
  await chmod(path, 0o600)
}
