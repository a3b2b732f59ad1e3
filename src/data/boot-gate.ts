import pg from 'pg'

export type GateReport = {
  /** Why tenants would not be kept apart here, one sentence each. The server must not start. */
  refusals: string[]
  /** What is wrong and can wait until production. */
  warnings: string[]
}

/**
 * The first releases without a known way past row-level security: CVE-2025-8713 (planner statistics tell rows that policies hide,
 * fixed in 15.14, 16.10 and 17.6) and, before that, CVE-2024-10976 (a policy of another role is reused).
 */
const securityFloor: Readonly<Record<number, number>> = { 15: 14, 16: 10, 17: 6 }

/**
 * Looks, with the application's own connection, whether the database can keep tenants apart: whether this role could get past the
 * policies, and whether every tenant table has them. Throws what pg throws when the database cannot be reached.
 */
export async function inspectDatabase(appUrl: string): Promise<GateReport> {
  const client = new pg.Client({ connectionString: appUrl, connectionTimeoutMillis: 10_000 })
  // A connection that breaks also rejects the query in progress.
  client.on('error', () => undefined)
  await client.connect()
  try {
    const refusals = [...(await powersOf(client)), ...(await openTables(client))]
    return { refusals, warnings: await outdated(client) }
  } finally {
    await client.end()
  }
}

/** What lets the role see rows that the policies hide, itself or through a role it is a member of. */
async function powersOf(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ me: string; role: string; superuser: boolean; bypass: boolean; owned: string[] }>(`
    select current_user as me, r.rolname as role, r.rolsuper as superuser, r.rolbypassrls as bypass,
      array(select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relowner = r.oid and c.relkind in ('r', 'p') and n.nspname = 'public' order by 1) as owned
    from pg_roles r where pg_has_role(current_user, r.oid, 'MEMBER')`)
  return rows.flatMap(({ me, role, superuser, bypass, owned }) => {
    const who = me === role ? `The database role ${me}` : `The database role ${me}, through its membership in ${role},`
    if (superuser) return [`${who} is a superuser, whom no policy binds.`]
    if (bypass) return [`${who} may bypass row-level security.`]
    if (owned.length > 0) return [`${who} owns tables (${owned.join(', ')}) and could change their policies.`]
    return []
  })
}

/** Tables of tenants, and the tenants themselves, that lack forced row-level security or the restrictive policy. */
async function openTables(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ name: string; forced: boolean; walled: boolean }>(`
    select c.relname as name, c.relrowsecurity and c.relforcerowsecurity as forced,
      exists (select from pg_policy p where p.polrelid = c.oid and not p.polpermissive and p.polcmd = '*'
              and pg_get_expr(p.polqual, p.polrelid) like '%app.current_tenant%') as walled
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relkind in ('r', 'p') and (c.relname = 'tenants'
      or exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped))
    order by 1`)
  return rows.flatMap(({ name, forced, walled }) => {
    if (!forced) return [`Row-level security is not forced on the table ${name}.`]
    if (!walled) return [`The table ${name} has no restrictive tenant policy.`]
    return []
  })
}

async function outdated(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ number: number; version: string }>(
    "select current_setting('server_version_num')::int as number, current_setting('server_version') as version",
  )
  return rows.flatMap(({ number, version }) => {
    const major = Math.trunc(number / 10_000)
    const floor = securityFloor[major] ?? (major < 15 ? Number.POSITIVE_INFINITY : 0)
    if (number % 10_000 >= floor) return []
    return [`PostgreSQL ${version} has known ways past row-level security. Update it to its latest minor release.`]
  })
}
