import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { inject } from 'vitest'
import { withDatabase } from './database-url.ts'

export type TestDatabase = {
  /** As `bulkhead_app`, the role that the product uses. */
  appUrl: string
  platformUrl: string
  /** As the superuser: for looking at what the product cannot see. */
  adminUrl: string
  /** Throws when a connection to it is still open: something was not closed. */
  drop(): Promise<void>
}

/**
 * A migrated database of one test file's own, cloned from the run's template. An empty one, not migrated, with
 * `{ empty: true }`.
 */
export async function createTestDatabase({ empty = false } = {}): Promise<TestDatabase> {
  const server = inject('testServer')
  const name = `test_${randomBytes(8).toString('hex')}`
  const template = empty ? 'template1' : new URL(server.adminUrl).pathname.slice(1)
  // Copying its files takes two thirds of the time that logging them does.
  await maintain(`CREATE DATABASE ${name} TEMPLATE ${template} STRATEGY file_copy`)
  return {
    appUrl: withDatabase(server.appUrl, name),
    platformUrl: withDatabase(server.platformUrl, name),
    adminUrl: withDatabase(server.adminUrl, name),
    drop: () => dropDatabase(name),
  }
}

let maintenance: Promise<pg.Client> | null = null

/** Runs the statement outside of all tests' databases, on a connection that the files of a process share: opening one takes long. */
async function maintain(statement: string): Promise<void> {
  maintenance ??= connect(withDatabase(inject('testServer').adminUrl, 'postgres'))
  await (await maintenance).query(statement)
}

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  return client
}

// A backend takes a moment to go after its client has; DROP DATABASE itself waits up to 5 s for that, then refuses.
async function dropDatabase(name: string): Promise<void> {
  try {
    await maintain(`DROP DATABASE ${name}`)
  } catch (error) {
    await maintain(`DROP DATABASE ${name} WITH (FORCE)`)
    throw new Error(`A connection to the test's database was left open.`, { cause: error })
  }
}
