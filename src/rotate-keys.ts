import type { Logger } from 'pino'
import { openDataAsItIs, openPorts, type Progress } from './app.ts'
import { type Config, ConfigError } from './config.ts'
import { rotateKeys as rotate } from './domain/key-rotation.ts'

/** How often it is said how far it has come, in milliseconds. */
const sayEvery = 1_000

/** Failures that are told one by one. */
const mostTold = 10

/**
 * `bulkhead keys rotate`: puts what older master keys encrypt under the current one. Answers what came of it, in words. Throws a
 * ConfigError when something is still under an older one.
 */
export async function rotateKeys(config: Config, logger: Logger, progress: Progress): Promise<string> {
  await using opened = new AsyncDisposableStack()
  const { data, catalog } = await openDataAsItIs(config, logger, opened)
  const { vault } = await openPorts(config, logger, opened)
  let said = Date.now()
  const { dataKeys, databases, left, failures } = await rotate(
    { data, catalog, ports: { vault } },
    {
      onProgress({ done, all }) {
        if (done < all && Date.now() - said < sayEvery) return
        said = Date.now()
        progress(`Rewrapped ${done} of ${all} data keys.`)
      },
    },
  )
  for (const { tenantId, error } of failures.slice(0, mostTold)) {
    progress(`The data keys of ${tenantId} were not rewrapped: ${error instanceof Error ? error.message : String(error)}`)
  }
  const done = `${inWords({ dataKeys, databases })} were put under the current master key, ${vault.wrappingKeyId}.`
  if (left.dataKeys + left.databases > 0) {
    throw new ConfigError(`${done} Still under an older one: ${inWords(left)}. Keep BULKHEAD_OLD_MASTER_KEYS, and run it again.`)
  }
  return `${done} Nothing is under an older one any more. BULKHEAD_OLD_MASTER_KEYS can be removed once no process encrypts under one of them; backups of before still need them.`
}

/** What there is under some master key. */
export function inWords({ dataKeys, databases }: { dataKeys: number; databases: number }): string {
  return `${countOf(dataKeys, 'data key')} and the URLs of ${countOf(databases, 'database')}`
}

function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}
