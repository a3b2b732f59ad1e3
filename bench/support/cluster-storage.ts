import type pg from 'pg'
import type { RedisCluster } from '../../test/support/redis-cluster.ts'

/** What the database holds and has done so far. */
export type StorageMark = {
  runs: number
  /** Rows and bytes of each table, its indexes and what is kept out of line included. */
  tables: Map<string, { rows: number; bytes: number }>
  /** Bytes of write-ahead log ever written, and transactions ever committed. */
  wal: number
  commits: number
}

/** Of a run's table: rows and bytes that it adds. */
export type TableGrowth = { table: string; rows: number; bytes: number }

/** Rows counted, not estimated. Dead ones are vacuumed first, so that what remains is what stays. */
export async function markStorage(admin: pg.Client): Promise<StorageMark> {
  await admin.query('vacuum analyze')
  const { rows } = await admin.query<{ table: string; bytes: string }>(`
    select relname as table, pg_total_relation_size(oid) as bytes from pg_class
    where relkind = 'r' and relnamespace = 'public'::regnamespace`)
  const tables = new Map<string, { rows: number; bytes: number }>()
  for (const { table, bytes } of rows) {
    const counted = await admin.query<{ rows: string }>(`select count(*) as rows from "${table}"`)
    tables.set(table, { rows: Number(counted.rows[0]?.rows), bytes: Number(bytes) })
  }
  return { ...(await markLog(admin)), runs: tables.get('runs')?.rows ?? 0, tables }
}

/** The cheap half of a mark. */
export async function markLog(admin: pg.Client): Promise<{ wal: number; commits: number }> {
  const { rows } = await admin.query<{ wal: string; commits: string }>(`
    select pg_current_wal_lsn() - '0/0' as wal,
      (select xact_commit from pg_stat_database where datname = current_database()) as commits`)
  return { wal: Number(rows[0]?.wal), commits: Number(rows[0]?.commits) }
}

/** What each table grew by for one run, the largest first; tables that did not grow are left out. */
export function growthPerRun(before: StorageMark, after: StorageMark): TableGrowth[] {
  const runs = after.runs - before.runs
  const growth = [...after.tables].map(([table, now]) => {
    const then = before.tables.get(table) ?? { rows: 0, bytes: 0 }
    return { table, rows: (now.rows - then.rows) / runs, bytes: (now.bytes - then.bytes) / runs }
  })
  return growth.filter(({ bytes }) => bytes > 0).toSorted((one, other) => other.bytes - one.bytes)
}

/** What Redis holds: streams, their bytes on one node, and the events in them. */
export async function streamsIn({ nodes }: RedisCluster): Promise<{ streams: number; bytes: number; events: number }> {
  const sum = { streams: 0, bytes: 0, events: 0 }
  for (const { client } of nodes) {
    if (!String(await client.info('replication')).includes('role:master')) continue
    for await (const keys of client.scanStream({ match: '{r:*}:s', count: 1_000 })) {
      for (const key of keys as string[]) {
        const [bytes, events] = await Promise.all([client.memory('USAGE', key, 'SAMPLES', 0), client.xlen(key)])
        sum.streams++
        sum.bytes += bytes ?? 0
        sum.events += events
      }
    }
  }
  return sum
}
