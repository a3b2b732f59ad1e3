import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { PrismaClient } from './generated/client.ts'
import { SilenceWatch } from './silence.ts'

export type PlatformDatabaseOptions = {
  /** Connects as `bulkhead_platform`. */
  connectionString: string
  /** Default 3. */
  max?: number
  /** Bound on waiting for a connection, in milliseconds. Default 5,000. */
  connectionTimeoutMillis?: number
  /** How long a server may owe an answer before the connection is given up, in milliseconds. Default 60,000: erasing takes long. */
  silenceMillis?: number
  onIdleError?: (error: Error) => void
}

/** One database as the platform sees it. */
export class PlatformDatabase {
  readonly pool: pg.Pool
  readonly client: PrismaClient

  constructor(options: PlatformDatabaseOptions) {
    this.pool = openPlatformPool(options)
    this.client = new PrismaClient({ adapter: new PrismaPg(this.pool), errorFormat: 'minimal' })
  }

  async close(): Promise<void> {
    await this.client.$disconnect()
    await this.pool.end()
  }
}

export function openPlatformPool({ max = 3, connectionTimeoutMillis = 5_000, ...options }: PlatformDatabaseOptions): pg.Pool {
  const { connectionString, silenceMillis = 60_000, onIdleError } = options
  const pool = new pg.Pool({ connectionString, max, connectionTimeoutMillis })
  const silence = new SilenceWatch()
  // A pool has ended before its connections have, and a server that stops then is no news.
  pool.on('error', (error) => !pool.ending && onIdleError?.(error))
  // Of a connection in use the pool hears nothing, and an error that nobody hears ends the process.
  pool.on('connect', (client) => {
    client.on('error', () => undefined)
    silence.over(client, silenceMillis)
  })
  return pool
}

/** Runs `work` in a transaction on a connection of the pool. Whatever it throws rolls everything back. */
export async function transaction<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  } finally {
    // One that is still inside a transaction could be anybody's, with the rights it took: it is closed instead.
    client.release(client.getTransactionStatus() !== 'I')
  }
}
