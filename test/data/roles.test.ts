// @module-tag roles
import { chmod, rm } from 'node:fs/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/data/embedded.ts'
import { migrate } from '../../src/data/migrate.ts'
import { scramVerifier } from '../../src/data/scram.ts'
import { withDatabase } from '../support/database-url.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

// Roles belong to a whole server, so these tests have one of their own, on which they do not exist yet.
let dataDir: string
let server: EmbeddedPostgres
let superuser: pg.Client

beforeAll(async () => {
  dataDir = await makeScratchDirectory('bulkhead-roles-')
  await chmod(dataDir, 0o755)
  server = await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } })
  superuser = new pg.Client({ connectionString: server.adminUrl })
  await superuser.connect()
})

afterAll(async () => {
  await superuser.end()
  await server.stop()
  await rm(server.clusterDirectory, { recursive: true, force: true })
  await rm(dataDir, { recursive: true })
})

const urlOf = (database: string, user: string, password: string) => withDatabase(server.adminUrl, database, { user, password })

async function whoAmI(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    const { rows } = await client.query<{ who: string }>(
      'select current_user as who from prices right join (values (1)) one on true',
    )
    return rows[0]?.who ?? ''
  } finally {
    await client.end()
  }
}

describe('an administrator of managed Postgres: CREATEROLE and its own database, no superuser', () => {
  const options = () => ({
    adminUrl: urlOf('managed', 'manager', 'm'),
    appUrl: urlOf('managed', 'bulkhead_app', 'pass w%rd'),
    platformUrl: urlOf('managed', 'shop_platform', 'p'),
  })

  const others = ['east', 'west', 'north', 'south']

  beforeAll(async () => {
    await superuser.query(`create role manager login createrole password 'm'`)
    for (const name of ['managed', ...others]) await superuser.query(`create database ${name} owner manager`)
    await superuser.query(`create role shop_platform login password 'p'`)
  })

  it('copes with others that set up the same roles for other databases at the same time', async () => {
    const appUrl = (name: string) => urlOf(name, 'bulkhead_app', 'a')
    await Promise.all(others.map((name) => migrate({ adminUrl: urlOf(name, 'manager', 'm'), appUrl: appUrl(name) })))
    for (const name of others) expect(await whoAmI(appUrl(name))).toBe('bulkhead_app')
  })

  it('sets everything up, twice', async () => {
    expect((await migrate(options())).applied).not.toEqual([])
    expect(await migrate(options())).toEqual({ applied: [] })
  })

  it('lets the named role in with its password, and the other login as a member', async () => {
    expect(await whoAmI(options().appUrl)).toBe('bulkhead_app')
    expect(await whoAmI(options().platformUrl)).toBe('shop_platform')
    await expect(whoAmI(urlOf('managed', 'bulkhead_app', 'wrong'))).rejects.toThrow('password authentication failed')
    await expect(whoAmI(urlOf('managed', 'bulkhead_eraser', ''))).rejects.toThrow()
  })

  it('gives a role a new password when the URL has one', async () => {
    await migrate({ ...options(), appUrl: urlOf('managed', 'bulkhead_app', 'new') })
    expect(await whoAmI(urlOf('managed', 'bulkhead_app', 'new'))).toBe('bulkhead_app')
  })

  it('takes powers back that a role was given', async () => {
    await superuser.query('alter role bulkhead_app createdb createrole bypassrls')
    await migrate({ ...options(), adminUrl: server.adminUrl })
    const { rows } = await superuser.query(
      `select rolcreatedb, rolcreaterole, rolbypassrls from pg_roles where rolname = 'bulkhead_app'`,
    )
    expect(rows).toEqual([{ rolcreatedb: false, rolcreaterole: false, rolbypassrls: false }])
  })
})

describe('refuses in one line', () => {
  const refusal = async (options: { adminUrl?: string; appUrl?: string; platformUrl?: string }) =>
    String(await migrate({ adminUrl: server.adminUrl, ...options }).catch((error: Error) => error))

  beforeAll(async () => {
    await superuser.query(`create role powerless login password 'p'`)
    await superuser.query('grant connect on database bulkhead to powerless')
    await superuser.query(`create role loner login noinherit password 'p'`)
  })

  it.each([
    ['an administrator who is none', { adminUrl: 'powerless' }, 'must be a superuser, or own the database and have CREATEROLE'],
    [
      'a login that does not exist',
      { appUrl: 'nobody' },
      'DATABASE_URL logs in as nobody, and there is no such login role. Use bulkhead_app',
    ],
    [
      'a login that no policy binds',
      { appUrl: 'postgres' },
      'DATABASE_URL logs in as postgres, whom row-level security does not bind',
    ],
    ['a login that does not inherit', { platformUrl: 'loner' }, 'DATABASE_PLATFORM_URL logs in as loner, which is NOINHERIT'],
    ['one login for both', { appUrl: 'powerless', platformUrl: 'powerless' }, 'both log in as powerless'],
  ])('%s', async (_case, users, message) => {
    const urls = Object.fromEntries(Object.entries(users).map(([name, user]) => [name, urlOf('bulkhead', user, 'p')]))
    expect(await refusal(urls)).toMatch(/^MigrationError: [^\n]+$/)
    expect(await refusal(urls)).toContain(message)
  })

  it('a password that clients would normalise differently, without repeating it', async () => {
    const message = await refusal({ appUrl: urlOf('bulkhead', 'bulkhead_app', 'pässword') })
    expect(message).toBe('MigrationError: The password in DATABASE_URL must be printable ASCII.')
  })
})

it('end transactions in which nothing is sent, after five seconds unless an administrator chose another bound', async () => {
  await superuser.query('create database idle')
  const urls = {
    adminUrl: withDatabase(server.adminUrl, 'idle'),
    appUrl: urlOf('idle', 'bulkhead_app', 'a'),
    platformUrl: urlOf('idle', 'bulkhead_platform', 'p'),
  }
  const boundOf = async (connectionString: string) => {
    const client = new pg.Client({ connectionString })
    await client.connect()
    const { rows } = await client.query('show idle_in_transaction_session_timeout')
    await client.end()
    return rows[0].idle_in_transaction_session_timeout
  }
  await migrate(urls)
  expect([await boundOf(urls.appUrl), await boundOf(urls.platformUrl)]).toEqual(['5s', '5s'])
  await superuser.query("alter role bulkhead_app set idle_in_transaction_session_timeout = '8s'")
  await migrate(urls)
  expect([await boundOf(urls.appUrl), await boundOf(urls.platformUrl)]).toEqual(['8s', '5s'])
})

it('computes the verifier that Postgres itself would', async () => {
  await superuser.query(`create role reference password 'correct horse'`)
  const { rows } = await superuser.query<{ rolpassword: string }>(`select rolpassword from pg_authid where rolname = 'reference'`)
  const verifier = rows[0]?.rolpassword ?? ''
  const salt = Buffer.from(verifier.split(/[:$]/)[2] ?? '', 'base64')
  expect(scramVerifier('correct horse', salt)).toBe(verifier)
})
