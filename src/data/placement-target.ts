import pg from 'pg'
import { inspectDatabase } from './boot-gate.ts'
import { addressOf, type DatabaseUrls, storeDatabase, type UrlCipher, urlsBeside } from './database-address.ts'
import { migrate } from './migrate.ts'
import { MoveError, reasonOf } from './move-error.ts'
import { openPlatformPool } from './platform-database.ts'

export type TargetOptions = {
  catalogue: pg.Pool
  /** How the catalogue's own database is connected to. The logins of the new one are the same. */
  urls: Pick<DatabaseUrls, 'appUrl' | 'platformUrl'>
  cipher: UrlCipher
  /** Whether a server with known ways past row-level security is refused. */
  strict: boolean
  onProgress: (message: string) => void
}

/**
 * Makes a database ready to hold tenants: checks that it is one of their own, migrates it, passes the boot gate, brings prices and plans.
 * Answers its id in the catalogue. Safe to repeat. Throws MoveError when it cannot be used.
 */
export async function prepareTarget(adminUrl: string, options: TargetOptions): Promise<string> {
  const { catalogue, cipher, strict, onProgress } = options
  const name = addressOf(adminUrl)
  const urls = urlsBeside(adminUrl, options.urls)
  await refuseOthers(adminUrl, catalogue)
  try {
    await migrate({ ...urls, onProgress: (message) => onProgress(`${name}: ${message}`) })
  } catch (error) {
    throw unusable(error)
  }
  const gate = await inspectDatabase(urls.appUrl).catch((error) => {
    throw unusable(error)
  })
  const [refusal] = strict ? [...gate.refusals, ...gate.warnings] : gate.refusals
  if (refusal !== undefined) throw new MoveError(`The database of --database would not keep tenants apart. ${refusal}`)
  for (const warning of gate.warnings) onProgress(`${name}: ${warning}`)
  await bringTariff(catalogue, urls.platformUrl)
  return storeDatabase(catalogue, cipher, urls)
}

/** Copies the catalogue's prices, ids included, since the ledger refers to them, and what each plan allows. */
export async function bringTariff(catalogue: pg.Pool, platformUrl: string): Promise<void> {
  const { rows } = await catalogue.query<{ prices: string; plans: string }>(
    `select (select coalesce(json_agg(p), '[]')::text from prices p) as prices,
       (select coalesce(json_agg(p), '[]')::text from plans p) as plans`,
  )
  const target = openPlatformPool({ connectionString: platformUrl, max: 1 })
  try {
    await target.query(
      `insert into prices select * from json_populate_recordset(null::prices, $1::json)
       on conflict (id) do nothing`,
      [rows[0]?.prices],
    )
    await target.query(
      `update plans set messages_per_minute = p.messages_per_minute, messages_per_day = p.messages_per_day,
         tokens_per_message = p.tokens_per_message, concurrent_sessions = p.concurrent_sessions,
         monthly_tokens = p.monthly_tokens, weight = p.weight
       from json_populate_recordset(null::plans, $1::json) p where p.plan = plans.plan and p is distinct from plans`,
      [rows[0]?.plans],
    )
  } finally {
    await target.end()
  }
}

/** Refuses a database that is the catalogue itself, or holds anything else than tenants. Nothing is changed. */
async function refuseOthers(adminUrl: string, catalogue: pg.Pool): Promise<void> {
  const admin = new pg.Client({ connectionString: adminUrl, connectionTimeoutMillis: 10_000 })
  admin.on('error', () => undefined)
  await admin.connect().catch(async (error) => {
    throw new MoveError(`The database of --database cannot be reached as ${admin.user}: ${reasonOf(error)}. Check the URL.`, {
      cause: error,
    })
  })
  try {
    if (await isCatalogue(admin, catalogue))
      throw new MoveError('The database of --database is the shared one. To move a tenant there, say --pooled.')
    const { rows } = await admin.query<{ migrated: boolean; tables: string[] }>(
      `select to_regclass('public._prisma_migrations') is not null as migrated,
         array(select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by 1) as tables`,
    )
    if (!rows[0]?.migrated && rows[0]?.tables.length !== 0)
      throw new MoveError(`The database of --database holds other tables (${rows[0]?.tables.join(', ')}). Make an empty one.`)
  } finally {
    await admin.end()
  }
}

/** Under whichever name it was reached: a lock that is held in one database is not held in another. */
async function isCatalogue(admin: pg.Client, catalogue: pg.Pool): Promise<boolean> {
  const holder = await catalogue.connect()
  try {
    await holder.query('BEGIN')
    const { rows } = await holder.query<{ key: string }>(
      `select key, pg_advisory_xact_lock(key) from (select ('x' || substr(md5(gen_random_uuid()::text), 1, 15))::bit(60)::bigint as key) as fresh`,
    )
    const probe = await admin.query<{ free: boolean }>('select pg_try_advisory_xact_lock($1) as free', [rows[0]?.key])
    return probe.rows[0]?.free !== true
  } finally {
    await holder.query('ROLLBACK')
    holder.release()
  }
}

function unusable(error: unknown): MoveError {
  return new MoveError(`The database of --database cannot be used. ${reasonOf(error)}`, { cause: error })
}
