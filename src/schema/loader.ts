import { createContextCache } from '@pothos/core'
import DataLoader from 'dataloader'
import { NotFound } from '../domain/errors.ts'
import type { Context } from './context.ts'

/**
 * Batches what the fields of one operation ask for into one call of `load`. The loader lives as long as its context,
 * which is one operation, or one event of a subscription. A key that `load` does not answer loads null.
 */
export function loader<V>(
  load: (context: Context, keys: readonly string[]) => Promise<ReadonlyMap<string, V>>,
): (context: Context) => DataLoader<string, V | null> {
  return createContextCache(
    (context: Context) =>
      new DataLoader<string, V | null>(async (keys) => {
        const found = await load(context, keys)
        return keys.map((key) => found.get(key) ?? null)
      }),
  )
}

/** The rows by their ids. */
export function byId<V extends { id: string }>(rows: readonly V[]): Map<string, V> {
  return new Map(rows.map((row) => [row.id, row]))
}

/** What was loaded, where there must be something. Throws NotFound when it was deleted while the operation went on. */
export async function existing<V>(noun: string, loading: Promise<V | null>): Promise<V> {
  const value = await loading
  if (value === null) throw new NotFound(noun)
  return value
}
