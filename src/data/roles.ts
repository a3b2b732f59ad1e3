import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { MigrationError } from './migration-error.ts'
import { scramVerifier } from './scram.ts'

/** Who logs in: the URLs that the server connects with. Only their user and password are looked at here. */
export type LoginUrls = {
  /** What tenants' work connects with: `DATABASE_URL`. */
  appUrl?: string
  /** What the catalogue connects with: `DATABASE_PLATFORM_URL`. */
  platformUrl?: string
}

const owner = 'bulkhead_owner'
const workingRoles = ['bulkhead_app', 'bulkhead_platform', 'bulkhead_eraser'] as const
const safe = 'NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION'

/**
 * Sets up the roles, as a superuser or as an administrator with CREATEROLE that owns the database (managed Postgres):
 * - `bulkhead_owner` owns the schema and all in it, and only migrations use it. Nobody logs in as it.
 * - `bulkhead_app` does what tenants do, `bulkhead_platform` what is platform-wide, `bulkhead_eraser` erases a tenant.
 * - A URL whose user is `bulkhead_app` (`bulkhead_platform`) makes that role log in with the URL's password. A URL that
 *   names another login role, which must exist, makes that role a member instead.
 * - A transaction of theirs in which nothing is sent for 5 seconds ends, unless they were given another bound.
 * - No one else may connect to the database, as far as its administrator can decide that.
 *
 * Safe to repeat. Throws MigrationError when a role cannot be what it has to be.
 */
export async function ensureRoles(admin: pg.Client, urls: LoginUrls): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    await admin.query('BEGIN')
    try {
      await createRoles(admin)
      await ensureLogins(admin, urls)
      await ensureOwnership(admin)
      await admin.query('COMMIT')
      return
    } catch (error) {
      await admin.query('ROLLBACK')
      if (attempt === 5 || !isRace(error)) throw explained(error)
      await delay(50 * attempt)
    }
  }
}

/** Roles belong to the whole server: a migration of another database on it may be setting them up right now. */
function isRace(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return false
  return error.code === '23505' || error.code === '42710' || error.message === 'tuple concurrently updated'
}

function explained(error: unknown): unknown {
  if (!(error instanceof pg.DatabaseError) || error.code !== '42501') return error
  return new MigrationError(
    `The roles cannot be set up: ${error.message}. The administrator's user (of DATABASE_ADMIN_URL, or of --database) must be a superuser, or own the database and have CREATEROLE (since PostgreSQL 16 also ADMIN OPTION on roles that another made).`,
    { cause: error },
  )
}

async function createRoles(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ rolname: string; dangerous: boolean }>(
    `select rolname, rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or rolreplication as dangerous
     from pg_roles where rolname = any($1)`,
    [[owner, ...workingRoles]],
  )
  const found = new Map(rows.map((row) => [row.rolname, row]))
  for (const role of [owner, ...workingRoles]) {
    const existing = found.get(role)
    if (!existing) await admin.query(`CREATE ROLE ${role} NOLOGIN`)
    else if (existing.dangerous) await admin.query(`ALTER ROLE ${role} ${safe}`)
  }
  await lendEraser(admin)
  await boundIdleness(admin)
}

/** A transaction whose client is gone without a word would hold its locks until TCP notices. What must wait longer says so. */
async function boundIdleness(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ rolname: string }>(
    `select rolname from pg_roles where rolname = any($1) and not coalesce(rolconfig::text like '%idle_in_transaction%', false)`,
    [workingRoles],
  )
  for (const { rolname } of rows) await admin.query(`ALTER ROLE ${rolname} SET idle_in_transaction_session_timeout = '5s'`)
}

/** The platform may become the eraser, for as long as it says so: it has none of its rights otherwise. */
async function lendEraser(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ lent: boolean }>(
    `select not rolinherit and pg_has_role(oid, 'bulkhead_eraser', 'MEMBER') as lent from pg_roles where rolname = 'bulkhead_platform'`,
  )
  if (rows[0]?.lent) return
  await admin.query('ALTER ROLE bulkhead_platform NOINHERIT')
  await admin.query('GRANT bulkhead_eraser TO bulkhead_platform')
}

async function ensureLogins(admin: pg.Client, { appUrl, platformUrl }: LoginUrls): Promise<void> {
  const app = appUrl === undefined ? null : credentials(appUrl)
  const platform = platformUrl === undefined ? null : credentials(platformUrl)
  if (app && platform && app.user === platform.user)
    throw new MigrationError(`DATABASE_URL and DATABASE_PLATFORM_URL both log in as ${app.user}. Give each a role of its own.`)
  if (app) await ensureLogin(admin, 'bulkhead_app', 'DATABASE_URL', app)
  if (platform) await ensureLogin(admin, 'bulkhead_platform', 'DATABASE_PLATFORM_URL', platform)
}

type Credentials = { user: string; password: string }

/** As the driver reads them, so that they are what the server will log in with. */
function credentials(url: string): Credentials {
  const { user, password } = new pg.Client({ connectionString: url })
  return { user: user ?? '', password: password ?? '' }
}

async function ensureLogin(admin: pg.Client, role: string, variable: string, { user, password }: Credentials): Promise<void> {
  if (user === role) {
    await admin.query(`ALTER ROLE ${role} LOGIN${password === '' ? '' : ` PASSWORD '${verifierOf(password, variable)}'`}`)
    return
  }
  const { rows } = await admin.query<{ powerful: boolean; member: boolean }>(
    `select rolsuper or rolbypassrls as powerful, pg_has_role(oid, $2, 'USAGE') as member from pg_roles where rolname = $1 and rolcanlogin`,
    [user, role],
  )
  const [login] = rows
  if (!login)
    throw new MigrationError(`${variable} logs in as ${user}, and there is no such login role. Use ${role}, or create it.`)
  if (login.powerful)
    throw new MigrationError(`${variable} logs in as ${user}, whom row-level security does not bind. Use ${role} instead.`)
  if (login.member) return
  await admin.query(`GRANT ${role} TO ${pg.escapeIdentifier(user)}`)
  const inherits = await admin.query<{ member: boolean }>(`select pg_has_role($1, $2, 'USAGE') as member`, [user, role])
  if (!inherits.rows[0]?.member)
    throw new MigrationError(`${variable} logs in as ${user}, which is NOINHERIT. Use ${role} instead, or alter it to INHERIT.`)
}

function verifierOf(password: string, variable: string): string {
  try {
    return scramVerifier(password)
  } catch (error) {
    throw new MigrationError(`The password in ${variable} must be printable ASCII.`, { cause: error })
  }
}

async function ensureOwnership(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ database: string; may_become_owner: boolean; schema_owner: string }>(
    // Since 16 an administrator is a member of the roles it creates, but may not take them on until it says so.
    `select current_database() as database, pg_get_userbyid(nspowner) as schema_owner,
       pg_has_role($1, case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end) as may_become_owner
     from pg_namespace where nspname = 'public'`,
    [owner],
  )
  const [state] = rows
  if (!state) throw new MigrationError('The database has no schema "public". Create it and start again.')
  if (!state.may_become_owner) await admin.query(`GRANT ${owner} TO CURRENT_USER`)
  if (state.schema_owner !== owner) await admin.query(`ALTER SCHEMA public OWNER TO ${owner}`)
  const database = pg.escapeIdentifier(state.database)
  await admin.query(`GRANT CONNECT ON DATABASE ${database} TO ${workingRoles.join(', ')}`)
  await admin.query(`REVOKE ALL ON DATABASE ${database} FROM PUBLIC`)
}
