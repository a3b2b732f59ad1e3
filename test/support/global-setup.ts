import { chmod, rm } from 'node:fs/promises'
import type { TestProject } from 'vitest/node'
import { startEmbeddedPostgres } from '../../src/data/embedded.ts'
import { migrate } from '../../src/data/migrate.ts'
import { adminQuery, withDatabase } from './database-url.ts'
import { makeScratchDirectory } from './scratch.ts'

/** What each test file is told of the run's database server. The URLs name the template database. */
export type TestServer = { adminUrl: string; appUrl: string; platformUrl: string }

declare module 'vitest' {
  export interface ProvidedContext {
    testServer: TestServer
  }
}

/** Starts the run's database server and tells the test files of it. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { close, ...server } = await startTestServer()
  project.provide('testServer', server)
  return close
}

/**
 * One Postgres for the whole run, with one migrated template database that each test file clones: an embedded one in a
 * temporary directory, or, when `TEST_DATABASE_ADMIN_URL` is set, that one, on which this may create roles and databases.
 */
export async function startTestServer(): Promise<OwnedServer> {
  const external = process.env['TEST_DATABASE_ADMIN_URL']
  const server = external ? await useServer(external) : await startServer()
  try {
    await migrate(server)
  } catch (error) {
    await server.close()
    throw error
  }
  const { adminUrl, appUrl, platformUrl, close } = server
  return { adminUrl, appUrl, platformUrl, close }
}

type OwnedServer = TestServer & { close: () => Promise<void> }

async function startServer(): Promise<OwnedServer> {
  const dataDir = await makeScratchDirectory('bulkhead-test-')
  // When this runs as root, the server runs as another account, which must get in.
  await chmod(dataDir, 0o755)
  // Nothing here has to outlive a crash of the machine, or grows old enough to be vacuumed.
  const settings = {
    ...{ fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', wal_level: 'minimal', max_wal_senders: '0' },
    ...{ autovacuum: 'off', max_wal_size: '1GB', max_connections: '200' },
  }
  const server = await startEmbeddedPostgres({ dataDir, settings }).catch(async (error) => {
    await rm(dataDir, { recursive: true })
    throw error
  })
  const close = async () => {
    await server.stop()
    await rm(server.clusterDirectory, { recursive: true, force: true })
    await rm(dataDir, { recursive: true })
  }
  return { ...server, close }
}

async function useServer(adminUrl: string): Promise<OwnedServer> {
  const name = `bulkhead_template_${process.pid}`
  await adminQuery(adminUrl, `CREATE DATABASE ${name}`)
  const close = () => adminQuery(adminUrl, `DROP DATABASE ${name}`)
  return {
    adminUrl: withDatabase(adminUrl, name),
    appUrl: withDatabase(adminUrl, name, { user: 'bulkhead_app', password: 'app-in-tests' }),
    platformUrl: withDatabase(adminUrl, name, { user: 'bulkhead_platform', password: 'platform-in-tests' }),
    close,
  }
}
